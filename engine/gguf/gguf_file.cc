#include "engine/gguf/gguf_file.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "engine/gguf/gguf_head.h"
#include "engine/gguf/input_file.h"

namespace strata::engine {
namespace {

/// A file's head, read through a window that starts small and doubles while the head goes on: a 100
/// GB file costs its head.
class FileBytes final : public GgufBytes {
 public:
  explicit FileBytes(const InputFile& file)
      : GgufBytes(file.path(), file.size(), file.size()), file_(file) {
    // What most heads have is on its way while the first of it is read.
    (void)::posix_fadvise(file.descriptor(), 0, kUsualBytes, POSIX_FADV_WILLNEED);
  }

  void read(uint64_t offset, std::span<std::byte> out) override {
    if (out.size() >= kWindowBytesMax) return file_.read(offset, out, "head");
    if (offset < begin_ || offset + out.size() > begin_ + window_.size())
      refill(offset, out.size());
    std::memcpy(out.data(), window_.data() + (offset - begin_), out.size());
  }

 private:
  static constexpr off_t kUsualBytes = off_t{2} << 20;
  static constexpr uint64_t kWindowBytesMin = uint64_t{64} << 10;
  static constexpr uint64_t kWindowBytesMax = uint64_t{4} << 20;

  void refill(uint64_t offset, uint64_t bytes_min) {
    next_bytes_ = std::min(next_bytes_ * 2, kWindowBytesMax);
    begin_ = offset;
    window_.resize(std::min(std::max(next_bytes_, bytes_min), file_.size() - offset));
    file_.read(begin_, window_, "head");
  }

  const InputFile& file_;
  uint64_t begin_ = 0;
  uint64_t next_bytes_ = kWindowBytesMin / 2;
  std::vector<std::byte> window_;
};

class MemoryBytes final : public GgufBytes {
 public:
  MemoryBytes(std::span<const std::byte> head, uint64_t file_bytes, const std::string& name)
      : GgufBytes(name, std::min<uint64_t>(head.size(), file_bytes), file_bytes), head_(head) {}

  void read(uint64_t offset, std::span<std::byte> out) override {
    if (!out.empty()) std::memcpy(out.data(), head_.data() + offset, out.size());
  }

 private:
  std::span<const std::byte> head_;
};

GgufHead read_head(const InputFile& file) {
  FileBytes bytes(file);
  return read_gguf_head(bytes);
}

/// The typed getters of one head: a value of another type is an error that names key and type.
class Keys {
 public:
  Keys(const GgufHead& head, const std::string& path) : head_(head), path_(path) {}

  const GgufValue* find(std::string_view key) const {
    const auto found = head_.key_idx.find(key);
    return found == head_.key_idx.end() ? nullptr : &head_.metadata[found->second].second;
  }

  std::optional<uint64_t> get_uint(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (value->is_array) fail_type(key, "an integer", *value);
    return element_uint(key, *value, 0);
  }

  [[noreturn]] void fail_type(std::string_view key, std::string_view wanted,
                              const GgufValue& value) const {
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted {}, found {}{}", wanted, value.is_array ? "an array of " : "",
                            gguf_type_name(value.type)),
                where(key), "convert the model again");
  }

  /// Element `idx` of integers as uint64; bools and other types are rejected.
  uint64_t element_uint(std::string_view key, const GgufValue& value, uint64_t idx) const {
    if (const auto* wide = std::get_if<GgufValue::Unsigned>(&value.values)) return (*wide)[idx];
    const auto* integers = std::get_if<GgufValue::Integers>(&value.values);
    if (!integers || value.type == static_cast<uint32_t>(GgufType::kBool))
      fail_type(key, value.is_array ? "an array of integers" : "an integer", value);
    if ((*integers)[idx] < 0)
      throw Error(ErrorCode::kBadFile,
                  fmt::format("wanted an integer of at least 0, found {}", (*integers)[idx]),
                  where(key), "convert the model again");
    return static_cast<uint64_t>((*integers)[idx]);
  }

  double element_real(std::string_view key, const GgufValue& value, uint64_t idx) const {
    if (const auto* reals = std::get_if<GgufValue::Reals>(&value.values)) return (*reals)[idx];
    if (const auto* wide = std::get_if<GgufValue::Unsigned>(&value.values))
      return static_cast<double>((*wide)[idx]);
    const auto* integers = std::get_if<GgufValue::Integers>(&value.values);
    if (!integers || value.type == static_cast<uint32_t>(GgufType::kBool))
      fail_type(key, value.is_array ? "an array of numbers" : "a number", value);
    return static_cast<double>((*integers)[idx]);
  }

 private:
  std::string where(std::string_view key) const { return fmt::format("{}: key {}", path_, key); }
  const GgufHead& head_;
  const std::string& path_;
};

}  // namespace

struct GgufFile::State {
  std::string path;
  uint64_t file_bytes = 0;
  GgufHead head;  // of the first shard; `tensors` and `tensor_idx` hold those of all shards
  std::vector<InputFile> files;  // [n_shards]; empty for bytes in memory

  Keys keys() const { return Keys(head, path); }
  void add_shard(const std::string& shard_path, uint64_t idx, uint64_t n_shards);
};

namespace {

constexpr uint64_t kShardsMax = 65535;  // split.count is a u16
constexpr std::string_view kTensorsOfAll = "split.tensors.count";

std::string shard_suffix(uint64_t idx, uint64_t n_shards) {
  return fmt::format("-{:05}-of-{:05}.gguf", idx + 1, n_shards);
}

InputFile open_shard(const std::string& path, uint64_t idx, uint64_t n_shards) {
  try {
    return InputFile::open(path);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("shard {} of {}: {}", idx + 1, n_shards, error.what()),
                path, "put all shards of the model into one folder");
  }
}

[[noreturn]] void refuse_shard(const std::string& path, std::string_view key,
                               const std::string& message) {
  throw Error(ErrorCode::kBadFile, message, fmt::format("{}: key {}", path, key),
              "fetch all shards of one model again");
}

}  // namespace

/// Adds the tensors of shard `idx` (not the first) after checking that it is the shard its name
/// says.
void GgufFile::State::add_shard(const std::string& shard_path, uint64_t idx, uint64_t n_shards) {
  files.push_back(open_shard(shard_path, idx, n_shards));
  GgufHead shard = read_head(files.back());
  const Keys shard_keys(shard, shard_path);
  const auto no = shard_keys.get_uint("split.no");
  const auto count = shard_keys.get_uint("split.count");
  if (!no || !count)
    refuse_shard(
        shard_path, "split.no",
        fmt::format("wanted shard {} of {}, found a file that is no shard", idx + 1, n_shards));
  if (*no != idx || *count != n_shards)
    refuse_shard(
        shard_path, "split.no",
        fmt::format("wanted shard {} of {} by its name, found split.no {} and split.count {}",
                    idx + 1, n_shards, *no, *count));
  const auto n_wanted = keys().get_uint(kTensorsOfAll);
  const auto n_shard_wanted = shard_keys.get_uint(kTensorsOfAll);
  if (n_wanted && n_shard_wanted && *n_wanted != *n_shard_wanted)
    refuse_shard(shard_path, kTensorsOfAll,
                 fmt::format("wanted {} tensors over all shards as the first shard says, "
                             "found {}: the shards are of different models",
                             *n_wanted, *n_shard_wanted));
  for (GgufTensor& tensor : shard.tensors) {
    const auto position = static_cast<uint32_t>(head.tensors.size());
    if (!head.tensor_idx.emplace(tensor.name, position).second)
      throw Error(ErrorCode::kBadFile, "the tensor is also in an earlier shard",
                  fmt::format("{}: tensor {}, offset {}", shard_path, printable(tensor.name),
                              tensor.file_offset),
                  "fetch all shards of one model again");
    tensor.shard = static_cast<uint32_t>(idx);
    head.tensors.push_back(std::move(tensor));
  }
  file_bytes += files.back().size();
}

uint64_t GgufValue::size() const {
  return std::visit([](const auto& held) { return static_cast<uint64_t>(held.size()); }, values);
}

uint64_t GgufTensor::n_rows() const {
  uint64_t rows = 1;
  for (size_t i = 1; i < shape.size(); ++i) rows *= shape[i];  // bounded when the head was read
  return rows;
}

GgufFile::GgufFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

GgufFile GgufFile::open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->files.push_back(InputFile::open(path));
  state->file_bytes = state->files.front().size();
  state->head = read_head(state->files.front());

  const uint64_t n_shards = state->keys().get_uint("split.count").value_or(1);
  if (n_shards <= 1) return GgufFile(std::move(state));
  const std::string split_where = fmt::format("{}: key split.no", path);
  const uint64_t no = state->keys().get_uint("split.no").value_or(0);
  if (n_shards > kShardsMax || no >= n_shards)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted a shard below split.count and that at most {}, found {} of {}",
                            kShardsMax, no, n_shards),
                split_where, "split the model again");
  const std::string suffix = shard_suffix(no, n_shards);
  if (!path.ends_with(suffix))
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted a file name that ends in {} (shard {} of {}), found another",
                            suffix, no + 1, n_shards),
                path, "give the shards their names back: PREFIX-00001-of-00003.gguf and so on");
  const std::string prefix = path.substr(0, path.size() - suffix.size());
  if (no != 0)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted the first shard, found shard {} of {}", no + 1, n_shards),
                split_where, fmt::format("open {}{}", prefix, shard_suffix(0, n_shards)));
  for (uint64_t idx = 1; idx < n_shards; ++idx)
    state->add_shard(prefix + shard_suffix(idx, n_shards), idx, n_shards);

  const uint64_t n_tensors = state->head.tensors.size();
  const uint64_t n_wanted = state->keys().get_uint(kTensorsOfAll).value_or(n_tensors);
  if (n_wanted != n_tensors)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted {} tensors over all shards, found {}", n_wanted, n_tensors),
                fmt::format("{}: key {}", path, kTensorsOfAll),
                "fetch all shards of one model again");
  return GgufFile(std::move(state));
}

GgufFile GgufFile::parse(std::span<const std::byte> head, uint64_t file_bytes,
                         const std::string& name) {
  auto state = std::make_unique<State>();
  state->path = name;
  state->file_bytes = file_bytes;
  MemoryBytes bytes(head, file_bytes, name);
  state->head = read_gguf_head(bytes);
  return GgufFile(std::move(state));
}

const std::string& GgufFile::path() const { return state_->path; }
uint64_t GgufFile::file_bytes() const { return state_->file_bytes; }
uint32_t GgufFile::version() const { return state_->head.version; }
uint32_t GgufFile::n_shards() const {
  return static_cast<uint32_t>(std::max<size_t>(state_->files.size(), 1));
}
uint64_t GgufFile::alignment() const { return state_->head.alignment; }

const std::vector<std::pair<std::string, GgufValue>>& GgufFile::metadata() const {
  return state_->head.metadata;
}

const GgufValue* GgufFile::find(std::string_view key) const { return state_->keys().find(key); }

const std::vector<GgufTensor>& GgufFile::tensors() const { return state_->head.tensors; }

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = state_->head.tensor_idx.find(name);
  return found == state_->head.tensor_idx.end() ? nullptr : &state_->head.tensors[found->second];
}

std::optional<uint64_t> GgufFile::get_uint(std::string_view key) const {
  return state_->keys().get_uint(key);
}

std::optional<double> GgufFile::get_real(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->is_array) state_->keys().fail_type(key, "a number", *value);
  return state_->keys().element_real(key, *value, 0);
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->is_array || value->type != static_cast<uint32_t>(GgufType::kBool))
    state_->keys().fail_type(key, "a bool", *value);
  return std::get<GgufValue::Integers>(value->values).front() != 0;
}

std::optional<std::string_view> GgufFile::get_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto* strings = std::get_if<GgufValue::Strings>(&value->values);
  if (value->is_array || !strings) state_->keys().fail_type(key, "a string", *value);
  return strings->front();
}

const std::vector<std::string>* GgufFile::get_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return nullptr;
  const auto* strings = std::get_if<GgufValue::Strings>(&value->values);
  if (!value->is_array || !strings) state_->keys().fail_type(key, "an array of strings", *value);
  return strings;
}

std::optional<std::vector<uint64_t>> GgufFile::get_uints(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (std::holds_alternative<GgufValue::Strings>(value->values))
    state_->keys().fail_type(key, "integers", *value);
  const Keys keys = state_->keys();
  std::vector<uint64_t> all(value->size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = keys.element_uint(key, *value, i);
  return all;
}

std::optional<std::vector<double>> GgufFile::get_reals(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (std::holds_alternative<GgufValue::Strings>(value->values))
    state_->keys().fail_type(key, "numbers", *value);
  const Keys keys = state_->keys();
  std::vector<double> all(value->size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = keys.element_real(key, *value, i);
  return all;
}

void GgufFile::read(const GgufTensor& tensor, uint64_t offset, std::span<std::byte> out) const {
  STRATA_CHECK(offset <= tensor.bytes && out.size() <= tensor.bytes - offset,
               "offset %lu, %lu bytes of a tensor of %lu", static_cast<unsigned long>(offset),
               static_cast<unsigned long>(out.size()), static_cast<unsigned long>(tensor.bytes));
  const std::string what = "tensor " + printable(tensor.name);
  if (state_->files.empty())
    throw Error(ErrorCode::kIo, "the head was parsed from memory: there is no file to read from",
                fmt::format("{}: {}, offset {}", state_->path, what, tensor.file_offset));
  STRATA_CHECK(tensor.shard < state_->files.size(), "shard %u of %zu", tensor.shard,
               state_->files.size());
  state_->files[tensor.shard].read(tensor.file_offset + offset, out, what);
}

void GgufFile::ask_for(const GgufTensor& tensor, uint64_t offset, uint64_t bytes) const {
  (void)::posix_fadvise(shard(tensor.shard).descriptor,
                        static_cast<off_t>(tensor.file_offset + offset), static_cast<off_t>(bytes),
                        POSIX_FADV_WILLNEED);
}

GgufFile::Shard GgufFile::shard(uint32_t idx) const {
  if (state_->files.empty())
    throw Error(ErrorCode::kIo, "the head was parsed from memory: there is no file to read from",
                state_->path);
  STRATA_CHECK(idx < state_->files.size(), "shard %u of %zu", idx, state_->files.size());
  const InputFile& file = state_->files[idx];
  return {file.path(), file.descriptor(), file.size()};
}

void GgufFile::check_unchanged(uint32_t shard_idx) const {
  STRATA_CHECK(shard_idx < state_->files.size(), "shard %u of %zu", shard_idx,
               state_->files.size());
  state_->files[shard_idx].check_unchanged();
}

}  // namespace strata::engine
