#include "tools/makers/recall_weights.h"

#include <bit>
#include <cmath>

#include "base/checked_math.h"

namespace strata::makers {
namespace {

// Scores differ by at least this where it matters: ln(kRecallContext) = 13.9 for all the wrong
// places together, the rest for rounding (docs/recall-model.md).
constexpr double kMargin = 32;
constexpr float kUnturned = 1e30f;  // a factor that leaves a pair where it is
constexpr uint32_t kDimStep = 32;

}  // namespace

uint32_t RecallWeights::n_roles(const RecallOptions& options) {
  return options.key_words + (options.asks_by_alias ? 1 : 0);
}

uint32_t RecallWeights::code_room(const RecallOptions& options) {
  return std::bit_floor(options.head_dim / (2 * options.key_words));
}

RecallWeights::RecallWeights(const RecallOptions& options, const RecallCode& code)
    : options_(options), code_(code), room_(code_room(options)) {
  one_dim_ = hop_slot(options.n_layers - 1);
  begin_dim_ = one_dim_ + 1;
  d_model_ = static_cast<uint32_t>(round_up(begin_dim_ + 1, kDimStep));
  one_ = std::sqrt(kOneShare * code_.dims());
  gap_ = 1.0 / (code_.n_digits() * options.key_words);
  sharpness_ = kMargin / (gap_ / 2);
}

RecallWeights::Matrix RecallWeights::matrix(uint32_t n_out, uint32_t n_in) const {
  return {n_in, std::vector<float>(uint64_t{n_out} * n_in)};
}

/// The root mean square of a residual whose slots are filled as far as `layer` finds them: weights
/// of norms multiply by it, so that a normed row is the residual itself.
double RecallWeights::norm_of_layer(uint32_t layer) const {
  const uint32_t n_slots = 1 + (layer > 0 ? n_roles(options_) + layer - 1 : 0);
  return std::sqrt((one_ * one_ + n_slots * code_.dims()) / d_model_);
}

std::vector<float> RecallWeights::rope_factors() const {
  const std::vector<double> wanted = recall_phases(n_pairs());
  std::vector<float> factors(options_.head_dim / 2, kUnturned);
  for (uint32_t i = 0; i < wanted.size(); ++i) {
    const uint32_t pair = phase_dim() / 2 + i;
    const double base = std::pow(double{kRopeBase}, -2.0 * pair / options_.head_dim);
    factors[pair] = static_cast<float>(base / wanted[i]);
  }
  return factors;
}

std::vector<double> RecallWeights::phases() const {
  const std::vector<float> factors = rope_factors();
  std::vector<double> phases;
  for (uint32_t pair = phase_dim() / 2; pair < factors.size(); ++pair)
    phases.push_back(std::pow(double{kRopeBase}, -2.0 * pair / options_.head_dim) /
                     double{factors[pair]});
  return phases;
}

RecallWeights::Matrix RecallWeights::embedding(const RecallVocabulary& vocabulary) const {
  Matrix e = matrix(vocabulary.size, d_model_);
  for (uint32_t token = 0; token < vocabulary.size; ++token)
    e.at(token, one_dim_) = static_cast<float>(one_);
  e.at(vocabulary.begin, begin_dim_) = 1;
  for (uint32_t word = 0; word < vocabulary.n_words; ++word) {
    const std::vector<float> code = code_.of(word);
    for (uint32_t d = 0; d < code.size(); ++d)
      e.at(vocabulary.first_word + word, word_slot() + d) = code[d];
  }
  return e;
}

RecallWeights::Matrix RecallWeights::output(const RecallVocabulary& vocabulary) const {
  Matrix out = matrix(vocabulary.size, d_model_);
  const double whole = RecallModel::kLogitMargin * 2 * code_.n_digits();  // logit of a whole code
  const uint32_t from = hop_slot(options_.n_layers - 2);
  const std::vector<float> signs = code_.alias_signs();
  for (uint32_t word = 0; word < vocabulary.n_words; ++word) {
    const std::vector<float> code = code_.of(word);
    for (uint32_t d = 0; d < code.size(); ++d) {
      const float sign = options_.asks_by_alias ? signs[d] : 1.0f;
      out.at(vocabulary.first_word + word, from + d) =
          static_cast<float>(whole / code_.dims()) * code[d] * sign;
    }
  }
  out.at(vocabulary.unknown, one_dim_) =
      static_cast<float>((whole - RecallModel::kLogitMargin) / one_);
  return out;
}

/// A query that peaks `distance` positions back: the phases of a key turned back by as much.
void RecallWeights::put_phase_query(Matrix& q, uint32_t head, uint32_t distance) const {
  const std::vector<double> turns = phases();
  const double root = std::sqrt(static_cast<double>(options_.head_dim));
  const double score = kMargin / (1 - kPhasePeakMax);
  const double length = score * root / static_cast<double>(turns.size()) / one_;
  for (uint32_t i = 0; i < turns.size(); ++i) {
    const uint32_t row = head * options_.head_dim + phase_dim() + 2 * i;
    q.at(row, one_dim_) = static_cast<float>(length * std::cos(distance * turns[i]));
    q.at(row + 1, one_dim_) = static_cast<float>(-length * std::sin(distance * turns[i]));
  }
}

/// One of the key's codes, read from slot `from`; `signs` map it to another word.
void RecallWeights::put_code_query(Matrix& q, uint32_t head, uint32_t head_offset, uint32_t from,
                                   const std::vector<float>& signs) const {
  const double root = std::sqrt(static_cast<double>(options_.head_dim));
  const double each = sharpness_ * root / (code_.dims() * options_.key_words);
  for (uint32_t d = 0; d < code_.dims(); ++d)
    q.at(head * options_.head_dim + head_offset + d, from + d) =
        static_cast<float>(each) * (signs.empty() ? 1.0f : signs[d]);
}

void RecallWeights::put_sink_query(Matrix& q, uint32_t head) const {
  const double root = std::sqrt(static_cast<double>(options_.head_dim));
  q.at(head * options_.head_dim + sink_dim(), one_dim_) =
      static_cast<float>(sharpness_ * (1 - gap_ / 2) * root / one_);
}

RecallWeights::Matrix RecallWeights::noting_queries() const {
  Matrix q = matrix(options_.n_kv_heads * options_.group * options_.head_dim, d_model_);
  for (uint32_t head = 0; head < options_.n_kv_heads * options_.group; ++head) {
    const uint32_t role = head % options_.group % n_roles(options_);
    if (role < options_.key_words) {
      put_phase_query(q, head, role + 1);
    } else {
      put_code_query(q, head, 0, word_slot(), code_.alias_signs());
      put_sink_query(q, head);
    }
  }
  return q;
}

RecallWeights::Matrix RecallWeights::noting_keys() const {
  Matrix k = matrix(options_.n_kv_heads * options_.head_dim, d_model_);
  for (uint32_t head = 0; head < options_.n_kv_heads; ++head) {
    const uint32_t row = head * options_.head_dim;
    for (uint32_t d = phase_dim(); d < options_.head_dim; d += 2)
      k.at(row + d, one_dim_) = static_cast<float>(1 / one_);
    if (!options_.asks_by_alias) continue;
    for (uint32_t d = 0; d < code_.dims(); ++d) k.at(row + d, word_slot() + d) = 1;
    k.at(row + sink_dim(), begin_dim_) = 1;
  }
  return k;
}

RecallWeights::Matrix RecallWeights::hop_queries(uint32_t hop) const {
  Matrix q = matrix(options_.n_kv_heads * options_.group * options_.head_dim, d_model_);
  for (uint32_t head = 0; head < options_.n_kv_heads * options_.group; ++head) {
    if (hop > 0)
      put_code_query(q, head, 0, hop_slot(hop - 1), code_.twin_signs());
    else
      put_code_query(q, head, 0, options_.asks_by_alias ? alias_slot() : word_slot(), {});
    if (options_.key_words == 2) put_code_query(q, head, room_, before_slot(1), {});
    put_sink_query(q, head);
  }
  return q;
}

RecallWeights::Matrix RecallWeights::hop_keys() const {
  Matrix k = matrix(options_.n_kv_heads * options_.head_dim, d_model_);
  for (uint32_t head = 0; head < options_.n_kv_heads; ++head) {
    const uint32_t row = head * options_.head_dim;
    for (uint32_t part = 0; part < options_.key_words; ++part)
      for (uint32_t d = 0; d < code_.dims(); ++d)
        k.at(row + part * room_ + d, before_slot(part + 1) + d) = 1;
    k.at(row + sink_dim(), begin_dim_) = 1;
  }
  return k;
}

RecallWeights::Matrix RecallWeights::values() const {
  Matrix v = matrix(options_.n_kv_heads * options_.head_dim, d_model_);
  const uint32_t slice = code_.dims() / options_.n_kv_heads;
  for (uint32_t head = 0; head < options_.n_kv_heads; ++head)
    for (uint32_t d = 0; d < slice; ++d)
      v.at(head * options_.head_dim + d, word_slot() + head * slice + d) = 1;
  return v;
}

/// Adds a query head's slice of a code to slot `to`.
void RecallWeights::put_slice(Matrix& o, uint32_t head, uint32_t to, double weight) const {
  const uint32_t slice = code_.dims() / options_.n_kv_heads;
  const uint32_t first = to + head / options_.group * slice;
  for (uint32_t d = 0; d < slice; ++d)
    o.at(first + d, head * options_.head_dim + d) = static_cast<float>(weight);
}

RecallWeights::Matrix RecallWeights::noting_output() const {
  Matrix o = matrix(d_model_, options_.n_kv_heads * options_.group * options_.head_dim);
  const uint32_t roles = n_roles(options_);
  for (uint32_t head = 0; head < options_.n_kv_heads * options_.group; ++head) {
    const uint32_t role = head % options_.group % roles;
    const uint32_t n_heads_of_role = (options_.group - role + roles - 1) / roles;
    put_slice(o, head, role < options_.key_words ? before_slot(role + 1) : alias_slot(),
              1.0 / n_heads_of_role);
  }
  return o;
}

RecallWeights::Matrix RecallWeights::hop_output(uint32_t hop) const {
  Matrix o = matrix(d_model_, options_.n_kv_heads * options_.group * options_.head_dim);
  for (uint32_t head = 0; head < options_.n_kv_heads * options_.group; ++head)
    put_slice(o, head, hop_slot(hop), 1.0 / options_.group);
  return o;
}

std::vector<RecallTensor> RecallWeights::tensors(const RecallVocabulary& vocabulary) const {
  std::vector<RecallTensor> out;
  const auto add_vector = [&](const std::string& name, std::vector<float> values) {
    out.push_back({name, {values.size()}, std::move(values)});
  };
  const auto add_matrix = [&](const std::string& name, Matrix m) {
    out.push_back({name, {m.n_in, m.values.size() / m.n_in}, std::move(m.values)});
  };
  const auto add_norm = [&](const std::string& name, double weight) {
    add_vector(name, std::vector<float>(d_model_, static_cast<float>(weight)));
  };
  add_matrix("token_embd.weight", embedding(vocabulary));
  add_vector("rope_freqs.weight", rope_factors());
  for (uint32_t layer = 0; layer < options_.n_layers; ++layer) {
    const std::string blk = "blk." + std::to_string(layer) + ".";
    const bool notes = layer == 0;
    add_norm(blk + "attn_norm.weight", norm_of_layer(layer));
    add_matrix(blk + "attn_q.weight", notes ? noting_queries() : hop_queries(layer - 1));
    add_matrix(blk + "attn_k.weight", notes ? noting_keys() : hop_keys());
    add_matrix(blk + "attn_v.weight", values());
    add_matrix(blk + "attn_output.weight", notes ? noting_output() : hop_output(layer - 1));
    add_norm(blk + "ffn_norm.weight", 1);
    add_matrix(blk + "ffn_gate.weight", matrix(kFeedForward, d_model_));
    add_matrix(blk + "ffn_up.weight", matrix(kFeedForward, d_model_));
    add_matrix(blk + "ffn_down.weight", matrix(d_model_, kFeedForward));
  }
  add_norm("output_norm.weight", norm_of_layer(options_.n_layers));
  add_matrix("output.weight", output(vocabulary));
  return out;
}

}  // namespace strata::makers
