#include "tools/cli/plan_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "engine/byte_text.h"
#include "engine/device.h"
#include "engine/device_model.h"
#include "engine/dram_budget.h"
#include "engine/generator.h"
#include "engine/machine.h"
#include "planner/placement/placement.h"
#include "planner/placement/plan_rates.h"
#include "planner/virtual/virtual_device.h"
#include "tiers/spill.h"
#include "tools/cli/attention_profile.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"
#include "tools/cli/plan_answer.h"
#include "tools/cli/plan_pins.h"
#include "tools/cli/plan_report.h"
#include "tools/cli/predicted_model.h"
#include "tools/cli/request_options.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using engine::DeviceChoice;
using planner::DeviceProfile;

constexpr uint64_t kContextMin = uint64_t{2} * kBlockPositions;
constexpr uint64_t kAnswerTokens = 256;                 // where -n does not say how many
constexpr uint64_t kAssumedDisk = uint64_t{512} << 30;  // beside a card that is not here
constexpr uint32_t kQ8Group = 32;                       // values of one scale
constexpr uint32_t kTriedChunks[] = {512, 1024, 2048};

[[noreturn]] void refuse(const Command& command, std::string_view option, const std::string& what,
                         const std::string& remedy) {
  throw Error(ErrorCode::kUsage, what, command.where(option), remedy);
}

void set_context(const Command& command, PlanSubject& subject) {
  const Settings& settings = command.settings;
  const uint64_t trained = subject.model.spec.shape.n_ctx_train;
  const uint64_t n_ctx = settings.ctx_size > 0 ? settings.ctx_size : trained;
  if (n_ctx < kContextMin)
    refuse(command, "ctx-size",
           fmt::format("a context of {} tokens, wanted at least {}", n_ctx, kContextMin),
           fmt::format("use -c {} or more", kContextMin));
  const uint64_t asked = settings.predict >= 0 ? static_cast<uint64_t>(settings.predict)
                                               : std::min(kAnswerTokens, n_ctx / 2);
  if (asked >= n_ctx)
    refuse(command, "predict",
           fmt::format("an answer of {} tokens leaves a context of {} no prompt", asked, n_ctx),
           fmt::format("use a -n below {}, or a larger -c", n_ctx));
  if (n_ctx > trained)
    subject.notes.push_back(fmt::format("beyond {} tokens this model was never trained",
                                        engine::grouped_number(trained)));
  subject.request.n_ctx = n_ctx;
  subject.request.n_out = std::max<uint64_t>(asked, 1);
}

/// What a token attends within a budget; of one that depends on the text, all. What layers attend
/// by modes of their own is not priced.
void set_touched(const index::Rule& rule, PlanSubject& subject) {
  using Kind = index::Budget::Kind;
  const index::Budget& budget = rule.budget;
  if (budget.kind == Kind::kTokens) subject.request.touched_positions = budget.value;
  if (budget.kind == Kind::kShare) subject.request.touched_share = budget.value;
  subject.knows_touched =
      (budget.kind == Kind::kTokens || budget.kind == Kind::kShare) && rule.layers.empty();
}

/// A rate of selected chunks is not known: every row of a run scans the index.
void set_sparse(const engine::EngineOptions& options, PlanSubject& subject) {
  if (options.sparse_from == engine::kNeverSparse) return;
  subject.request.sparse = options.selection;
  subject.sparse_from = options.sparse_from;
  if (subject.request.n_ctx <= options.sparse_from) return;
  subject.notes.push_back(
      fmt::format("the time to the first token is that of a prompt that is read exactly: with "
                  "--sparse-prefill what comes after token {} is read in less",
                  engine::grouped_number(options.sparse_from)));
}

void set_attention(const Command& command, PlanSubject& subject) {
  engine::EngineOptions options = engine_options(command.settings);
  if (command.settings.attn == "auto")
    subject.notes.push_back(choose_attention(command.settings.profile_dir, options));
  subject.request.method = options.method;
  subject.request.selection = options.selection;
  subject.attention = "exact";
  if (!options.method) return;
  set_sparse(options, subject);
  const ModelShape& shape = subject.model.spec.shape;
  index::check_supported(*options.method,
                         KvLayout::make(options.k_codec, options.v_codec, shape.head_dim));
  const index::Budget& budget = options.selection.budget;
  set_touched(options.selection, subject);
  if (!options.selection.layers.empty())
    refuse(command, "kv-budget", "what is read with layers that attend everything is not planned",
           "plan with a number of tokens (2048) or a share (5%)");
  if (!subject.knows_touched)
    refuse(command, "kv-budget",
           fmt::format("how much of a context --kv-budget {} attends depends on the text",
                       budget_text(budget)),
           "plan with a number of tokens (2048) or a share (5%)");
  const bool is_tokens = budget.kind == index::Budget::Kind::kTokens;
  subject.attention = fmt::format("{}, {}{} of the context", command.settings.attn,
                                  budget_text(budget), is_tokens ? " tokens" : "");
}

void set_choices(const Command& command, PlanSubject& subject) {
  const engine::EngineOptions options = engine_options(command.settings);
  subject.request.codecs = {{options.k_codec, options.v_codec}};
  const bool is_q8 = options.k_codec == KvCodec::kQ8_0 && options.v_codec == KvCodec::kQ8_0;
  const uint32_t head_dim = subject.model.spec.shape.head_dim;
  if (command.settings.allow_q8 && head_dim % kQ8Group != 0) {
    subject.notes.push_back(fmt::format(
        "K and V in q8_0 were not tried: they want a head_dim that is a multiple of {}, found {}",
        kQ8Group, head_dim));
  } else if (command.settings.allow_q8 && !is_q8) {
    subject.request.codecs.push_back({KvCodec::kQ8_0, KvCodec::kQ8_0});
  }
  if (command.is_set("batch-size")) {
    subject.request.chunks = {options.chunk_rows};
  } else {
    subject.request.chunks.assign(std::begin(kTriedChunks), std::end(kTriedChunks));
  }
  subject.request.has_packs = options.reads_saved;
  subject.request.n_threads = options.n_threads > 0 ? options.n_threads : engine::usable_cpus();
}

/// The disk of this machine, as `run` would use it.
uint64_t disk_of_here(const Settings& settings, std::vector<std::string>& notes) {
  if (settings.nvme.empty()) return 0;
  if (settings.nvme_budget > 0) return settings.nvme_budget;
  try {
    return tiers::spill_room(settings.nvme) / 2;
  } catch (const Error& error) {
    if (settings.nvme_is_named) throw;
    notes.push_back(fmt::format("K and V cannot go to disk: {}", error.what()));
    return 0;
  }
}

void use_this_machine(const Command& command, PlanSubject& subject) {
  const Settings& settings = command.settings;
  const uint64_t free_bytes = engine::available_dram_bytes();
  subject.request.dram_bytes = settings.dram > 0 ? settings.dram : free_bytes;
  if (settings.dram > free_bytes)
    subject.notes.push_back(fmt::format("of the {} of --dram this machine has {} free",
                                        bytes_text(settings.dram), bytes_text(free_bytes)));
  subject.request.nvme_bytes = disk_of_here(settings, subject.notes);
}

void use_virtual(const Command& command, PlanSubject& subject) {
  const Settings& settings = command.settings;
  const DeviceProfile& profile = virtual_profile(command);
  subject.device = fmt::format("virtual:{}", profile.name);
  subject.request.profile = planner::profile_of(profile);
  const planner::VirtualDevice card(profile, {.has_bytes = false});
  DeviceFacts facts{};
  card.facts(&facts);
  subject.request.device = facts;
  subject.request.let_cpu_share(/*are_known=*/true);
  if (settings.hbm > facts.free_bytes)
    refuse(command, "hbm",
           fmt::format("{} has {} of memory, {} of them free, wanted {}", profile.title,
                       bytes_text(facts.memory_bytes), bytes_text(facts.free_bytes),
                       bytes_text(settings.hbm)),
           "use a smaller --hbm, or another card");
  subject.request.hbm_bytes = settings.hbm > 0 ? settings.hbm : facts.free_bytes;
  // Pinned memory is what a card reaches: of DRAM not all can be.
  subject.request.dram_bytes =
      settings.dram > 0 ? settings.dram : static_cast<uint64_t>(profile.dram_bytes.value * 3 / 4);
  subject.request.nvme_bytes = settings.nvme.empty()      ? 0
                               : settings.nvme_budget > 0 ? settings.nvme_budget
                                                          : kAssumedDisk;
  subject.rates_text = fmt::format(
      "Figures of {}, not measured here: some are from its datasheet, most are assumed "
      "(`strata bench --device {} -v` lists them).",
      profile.title, subject.device);
}

/// What `strata calibrate` has kept of this machine: nothing where it has kept nothing, or nothing
/// that still holds, and then why.
struct KeptRates {
  std::optional<planner::MachineProfile> profile;
  std::string stale;
  bool is_of_other_threads = false;  // and stale for nothing else
};
/// Errors: those of read_profile_file and expect_same_machine.
KeptRates kept_rates_in(const std::string& path, const planner::MachineProfile& here) {
  ProfileFile file = read_profile_file(path);
  if (file.is_older) return {std::nullopt, "its file is of an older version of the program"};
  if (!file.profile) return {};
  expect_same_machine(*file.profile, here, path);
  const int64_t now_s = unix_seconds();
  const std::string stale = stale_reason(*file.profile, here, now_s);
  if (stale.empty()) return {std::move(file.profile), ""};
  file.profile->n_threads = here.n_threads;
  return {std::nullopt, stale, stale_reason(*file.profile, here, now_s).empty()};
}

/// `device`: the card of this machine, or null = whichever is found. Errors: those of
/// kept_rates_in.
KeptRates kept_rates(const Settings& settings, uint32_t n_threads, const DeviceFacts* device) {
  if (settings.profile_dir.empty()) return {};
  // Without a spill file weights are still read from a disk: that of the cache folder, which holds
  // the spill file by default, stands for it.
  std::vector<std::string> folders = {settings.nvme};
  if (settings.nvme.empty()) folders.insert(folders.begin(), settings.profile_dir);
  KeptRates first;  // that is stale
  for (const std::string& folder : folders) {
    const auto here =
        machine_words(cpu_attn::choose_kernels(settings.cpu_isa), n_threads, folder, device);
    KeptRates kept = kept_rates_in(machine_profile_path(settings.profile_dir, here), here);
    if (kept.profile) return kept;
    if (first.stale.empty()) first = std::move(kept);
  }
  return first;
}

/// `what`: "is stale, for it is 31 days old".
std::string kept_rates_note(const Command& command, const std::string& what) {
  Command proposed = command;
  // Without a spill file the disk that is looked for first is that of this folder, and with
  // --nvme off none would be measured.
  if (command.settings.nvme.empty()) proposed.settings.nvme = command.settings.profile_dir;
  return fmt::format("the profile that is kept of this machine {}: `{}`", what,
                     command_line(proposed, "calibrate", kCalibrate, {}, "--if-stale"));
}

/// Not of another number of threads: such a profile holds for whoever computes with that.
std::string stale_text_of(const Command& command, const KeptRates& kept) {
  if (kept.stale.empty() || kept.is_of_other_threads) return "";
  return kept_rates_note(command, "is stale, for " + kept.stale);
}

std::string unusable_text_of(const Command& command, const Error& error) {
  return kept_rates_note(command, fmt::format("cannot be used ({})", error.what()));
}

/// A card's link, memory and kernels, and scans of an index, as they were measured here, where they
/// were: a profile that cannot be used is as good as none, but for the subject's stale_text.
std::string use_measured_card(const Command& command, const DeviceFacts& facts,
                              PlanSubject& subject) {
  try {
    const KeptRates kept = kept_rates(command.settings, subject.request.n_threads, &facts);
    subject.stale_text = stale_text_of(command, kept);
    if (!kept.profile) return "";
    subject.request.profile.index = kept.profile->index;
    if (kept.profile->gpu.hbm_bytes != facts.memory_bytes) return "";
    planner::MachineProfile& profile = subject.request.profile;
    planner::use_measured_card(kept.profile->gpu, profile);
    // Only where both sides of the link were measured it is known which is quicker.
    profile.attend = kept.profile->attend;
    profile.linear = kept.profile->linear;
    profile.dram_read_bytes_per_s = kept.profile->dram_read_bytes_per_s;
    subject.request.let_cpu_share(/*are_known=*/true);
    const bool has_kernels = kept.profile->gpu.gemv_bytes_per_s > 0;
    return fmt::format(" but for its link, its memory's rate{} what the CPU does{}, {}",
                       has_kernels ? "," : " and", has_kernels ? " and its kernels" : "",
                       kept.profile->measured_at);
  } catch (const Error& error) {
    subject.stale_text = unusable_text_of(command, error);
    return "";
  }
}

void price_card(const Command& command, const DeviceFacts& facts, bool is_named,
                PlanSubject& subject) {
  const DeviceProfile& like = planner::nearest_profile(facts);
  subject.request.profile = planner::profile_of(like);
  subject.request.device = facts;
  // What the engine does beside a card today; a share that is stated wants no rates.
  subject.request.may_stream = is_named;
  subject.request.may_spill = is_named;
  subject.request.let_cpu_share(/*are_known=*/false);
  const std::string but = use_measured_card(command, facts, subject);
  subject.rates_text =
      fmt::format("Priced with the figures of {}, not measured here{}.", like.title, but);
}

void use_cuda(const Command& command, const engine::OpenDevice& device, bool is_named,
              PlanSubject& subject) {
  const DeviceFacts& facts = device.facts();
  const uint64_t asked = command.settings.hbm;
  use_this_machine(command, subject);
  if (asked > facts.free_bytes)
    subject.notes.push_back(fmt::format("of the {} of --hbm this card has {} free",
                                        bytes_text(asked), bytes_text(facts.free_bytes)));
  subject.request.hbm_bytes =
      asked > 0 ? std::min(asked, facts.free_bytes) : engine::usable_device_bytes(facts.free_bytes);
  price_card(command, facts, is_named, subject);
}

[[noreturn]] void refuse_device(const Command& command, const std::string& why) {
  throw Error(ErrorCode::kUnsupported, why, command.where("device"),
              "change that, or use --device none");
}

/// Empty, or why nothing can be placed beside a card that is here, as Engine::plan_device has it.
std::string why_not_placed(const PlanSubject& subject) {
  const auto problems = engine::placement_problems(subject.model, subject.request);
  if (std::ranges::any_of(problems, [](const auto& of) { return !planner::shortage(of); }))
    return "";
  const planner::PlacementProblem& problem = problems.front();
  if (!planner::shortage(problem)->dram_gb) return plan_refusal(subject).what();
  const bool streams =
      problem.dram_fixed_gb + problem.always_weights_gb + problem.weights_gb() > problem.dram_gb;
  return engine::why_not_on_device(subject.model.device,
                                   {.spills = !streams, .streams_weights = streams});
}

/// Plans beside a card of this machine where Engine::open would use it. False, with a note where
/// there is one: the CPU computes.
bool use_card(const Command& command, const DeviceChoice& choice,
              const gpu_attn::CudaDevices& devices, PlanSubject& subject) {
  const engine::ChosenDevice chosen = engine::open_chosen_device(choice, devices);
  if (!chosen.device) return false;
  const engine::PlacementRequest request = subject.request;
  std::vector<std::string> notes = subject.notes;
  std::string why = engine::why_not_on_device(
      subject.model.device,
      {.estimates_tails = subject.request.method && index::has_tail(*subject.request.method),
       .reads_sparsely = subject.request.sparse.has_value()});
  const bool is_named = choice.kind == DeviceChoice::Kind::kCuda;
  if (is_named && !why.empty()) refuse_device(command, why);
  if (why.empty()) {
    subject.device = fmt::format("cuda:{}", chosen.device->ordinal());
    use_cuda(command, *chosen.device, is_named, subject);
    if (!is_named) why = why_not_placed(subject);
  }
  if (why.empty()) return true;
  notes.push_back("the CPU computes: " + why);
  subject.request = request;
  subject.notes = std::move(notes);
  return false;
}

/// What is kept of this machine, else what is assumed.
void use_rates_of_here(const Command& command, PlanSubject& subject) {
  subject.request.profile = planner::unmeasured_profile();
  subject.rates_text =
      "Rates are assumed, not measured here: good for the order of plans, not for their times "
      "(`strata calibrate` measures them).";
  KeptRates kept = kept_rates(command.settings, subject.request.n_threads, nullptr);
  subject.stale_text = stale_text_of(command, kept);
  if (kept.profile) {
    subject.rates_text = fmt::format(
        "Rates were measured here, {}{}.", kept.profile->measured_at,
        kept.profile->disk_is_direct ? "" : ", the disk's through the page cache: too high");
    subject.request.profile = *std::move(kept.profile);
  } else if (!kept.stale.empty()) {
    subject.rates_text = fmt::format(
        "Rates are assumed, not measured here: those that were kept are stale, for {} "
        "(`strata calibrate` measures them again).",
        kept.stale);
  }
}

void set_wishes(const Command& command, PlanSubject& subject) {
  const PlanPins pins = plan_pins(command, *subject.model.file, subject.model.spec.shape.n_layers);
  subject.request.pins = pins.layers;
  subject.request.kv_pin = pins.kv;
  subject.request.ttft_max_ms = command.settings.ttft_max_ms;
  subject.request.tpot_max_ms = command.settings.tpot_max_ms;
}

/// Once the machine is known.
void check_wishes(const Command& command, const PlanSubject& subject) {
  const PlanPins pins{subject.request.pins, subject.request.kv_pin};
  if (!pins.is_any()) return;
  const planner::PlacementProblem problem =
      engine::placement_problems(subject.model, subject.request).front();
  check_pinned_tiers(command, pins,
                     {.has_device = problem.has_device,
                      .may_stream = problem.may_stream,
                      .may_spill = problem.may_spill && problem.full_kv_gb() > 0,
                      .is_long = problem.spill_floor_gb < 0.9 * problem.full_kv_gb()});
}

void set_machine(const Command& command, const gpu_attn::CudaDevices& devices,
                 PlanSubject& subject) {
  const DeviceChoice choice = engine::parse_device_choice(command.settings.device);
  if (choice.kind == DeviceChoice::Kind::kVirtual) {
    use_virtual(command, subject);
    if (const std::string why = engine::why_not_on_device(subject.model.device); !why.empty())
      refuse_device(command, why);
    return;
  }
  const size_t n_notes = subject.notes.size();
  if (use_card(command, choice, devices, subject)) return;
  // Where a card is there and does not do, they are as good as they are for `run`.
  const char* option = command.settings.hbm > 0 ? "hbm" : "cpu-share";
  const bool is_wanted = command.settings.hbm > 0 || subject.request.cpu_share != 0;
  if (is_wanted && subject.notes.size() == n_notes)
    refuse(command, option, fmt::format("--{} is of a device, and none computes", option),
           "leave it out, or name a card with --device virtual:NAME or cuda:N");
  subject.device = "none";
  use_rates_of_here(command, subject);
  use_this_machine(command, subject);
}

/// As use_rates_of_here(), where a profile that cannot be used is no reason not to run.
void use_usable_rates(const Command& command, PlanSubject& subject) {
  const engine::KvCodecs& codecs = subject.request.codecs.front();
  try {
    use_rates_of_here(command, subject);
    (void)planner::rates_of(subject.request.profile, codecs.k, codecs.v,
                            subject.model.spec.shape.head_dim, /*has_device=*/false);
  } catch (const Error& error) {
    subject.request.profile = planner::unmeasured_profile();
    subject.rates_text = fmt::format("Rates are assumed, not measured here: {}.", error.what());
    subject.stale_text = unusable_text_of(command, error);
  }
}

/// What is stated of DRAM, and where nothing is, the half of the free memory that K and V may have
/// where they may spill.
void set_caps(const engine::Engine& engine, engine::PlacementRequest& request) {
  const engine::ContextRequest& limits = engine.limits();
  request.dram_bytes = limits.available_bytes + engine::kProcessBytes;
  request.nvme_bytes = limits.nvme_bytes;
  request.weights_dram_bytes = engine.options().weights_dram_bytes;
  if (limits.kv_dram_bytes < limits.available_bytes) request.kv_dram_bytes = limits.kv_dram_bytes;
  const engine::KvPlacement& kv = engine.context().kv;
  const bool may_spill =
      request.kv_pin.value_or(planner::PlanTier::kNvme) == planner::PlanTier::kNvme;
  if (!limits.is_budgeted && request.kv_dram_bytes == 0 && kv.is_spilling() && may_spill)
    request.kv_dram_bytes = kv.dram_bytes();
}

}  // namespace

PlanSubject plan_subject(const Command& command, const engine::Engine& engine) {
  const engine::EngineOptions& options = engine.options();
  PlanSubject subject;
  engine::PlacementRequest& request = subject.request;
  subject.model = engine::describe_for_plan(engine.file(), engine.spec());
  request.n_ctx = engine.context().n_ctx;
  const uint64_t answered = command.settings.predict >= 0
                                ? static_cast<uint64_t>(command.settings.predict)
                                : kAnswerTokens;
  request.n_out = std::max<uint64_t>(1, std::min(answered, request.n_ctx / 2));
  set_choices(command, subject);
  request.codecs = {{options.k_codec, options.v_codec}};
  request.has_packs = options.reads_saved;
  request.n_sequences = engine.n_sequences();
  request.n_answers = options.n_answers;
  request.n_draft_max = engine.limits().n_draft_max;
  request.method = options.method;
  request.selection = options.selection;
  request.cpu_share = options.cpu_share;
  set_sparse(options, subject);
  subject.attention = options.method ? command.settings.attn : "exact";
  if (options.method) set_touched(options.selection, subject);
  set_wishes(command, subject);
  set_caps(engine, request);
  subject.device = "none";
  if (engine.device() == nullptr) {
    use_usable_rates(command, subject);
  } else {
    subject.device = fmt::format("cuda:{}", engine.device()->ordinal());
    request.hbm_bytes = engine.hbm_budget();
    price_card(command, engine.device()->facts(), options.device.kind == DeviceChoice::Kind::kCuda,
               subject);
  }
  check_wishes(command, subject);
  return subject;
}

PlanSubject plan_subject(const Command& command, const gpu_attn::CudaDevices& devices) {
  PlanSubject subject;
  subject.file = std::make_unique<engine::GgufFile>(engine::GgufFile::open(command.settings.model));
  subject.model = engine::describe_for_plan(*subject.file, engine::read_model_spec(*subject.file));
  set_context(command, subject);
  set_choices(command, subject);
  set_attention(command, subject);
  set_wishes(command, subject);
  subject.request.cpu_share = engine_options(command.settings).cpu_share;
  set_machine(command, devices, subject);
  check_wishes(command, subject);
  return subject;
}

}  // namespace strata::cli
