#include "tools/rivals/key_search.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"
#include "base/error.h"
#include "tools/rivals/position_rivals.h"

#ifdef STRATA_FAISS
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/index_factory.h>
#include <omp.h>
#endif

namespace strata::rivals {

#ifdef STRATA_FAISS

namespace {

constexpr uint32_t kAsked = 100;

/// Takes every key, and records which a search asks about: those whose distance it has computed.
class Visits : public faiss::IDSelector {
 public:
  explicit Visits(uint32_t n_keys) : is_visited_(n_keys) {}
  bool is_member(int64_t key) const override {
    is_visited_[static_cast<size_t>(key)] = true;
    return true;
  }
  uint64_t count() const { return static_cast<uint64_t>(std::ranges::count(is_visited_, true)); }

 private:
  mutable std::vector<bool> is_visited_;
};

template <class Params>
Params params_of(Visits& visits) {
  Params params;
  params.sel = &visits;
  return params;
}

/// [n, n_dims + 1]
std::vector<float> augmented_keys(const TraceCase& on, uint32_t stream) {
  const uint32_t n_dims = on.head_dim();
  float longest = 0;
  for (uint32_t at = on.first(); at < on.end(); ++at)
    longest = std::max(longest, dot(on.key(stream, at), on.key(stream, at), n_dims));
  std::vector<float> keys;
  for (uint32_t at = on.first(); at < on.end(); ++at) {
    const float* key = on.key(stream, at);
    keys.insert(keys.end(), key, key + n_dims);
    keys.push_back(std::sqrt(std::max(0.0f, longest - dot(key, key, n_dims))));
  }
  return keys;
}

}  // namespace

struct KeySearch::Indexes {
  std::vector<std::unique_ptr<faiss::Index>> of;  // per stream
  uint64_t n_visited = 0;                         // keys, by all heads of a group in attend()
  uint64_t n_asked = 0;                           // KV heads

  /// Numbers of the n nearest keys.
  std::vector<uint32_t> search(uint32_t stream, const float* q, uint32_t n_dims, uint32_t n,
                               Visits& visits) const {
    std::vector<float> query(q, q + n_dims);
    query.push_back(0);
    std::vector<float> distances(n);
    std::vector<int64_t> labels(n, -1);
    auto of_graph = params_of<faiss::SearchParametersHNSW>(visits);
    auto of_lists = params_of<faiss::SearchParametersIVF>(visits);
    const faiss::SearchParameters* params = nullptr;
    if (const auto* graph = dynamic_cast<const faiss::IndexHNSW*>(of[stream].get())) {
      of_graph.efSearch = graph->hnsw.efSearch;
      params = &of_graph;
    }
    if (const auto* lists = dynamic_cast<const faiss::IndexIVF*>(of[stream].get())) {
      of_lists.nprobe = lists->nprobe;
      params = &of_lists;
    }
    if (n > 0) of[stream]->search(1, query.data(), n, distances.data(), labels.data(), params);
    std::vector<uint32_t> found;
    for (const int64_t label : labels)
      if (label >= 0) found.push_back(static_cast<uint32_t>(label));
    std::ranges::sort(found);
    return found;
  }
};

bool KeySearch::is_there() { return true; }

KeySearch::KeySearch(const TraceCase& on, const std::string& factory)
    : on_(on), indexes_(std::make_unique<Indexes>()) {
  omp_set_num_threads(1);
  const auto n_dims = static_cast<int>(on.head_dim()) + 1;
  try {
    for (uint32_t stream = 0; stream < on.n_streams(); ++stream) {
      auto& index = indexes_->of.emplace_back(
          faiss::index_factory(n_dims, factory.c_str(), faiss::METRIC_L2));
      if (auto* lists = dynamic_cast<faiss::IndexIVF*>(index.get()))
        lists->cp.min_points_per_centroid = 1;  // no warning
      const std::vector<float> keys = augmented_keys(on, stream);
      index->train(on.n_candidates(), keys.data());
      index->add(on.n_candidates(), keys.data());
    }
  } catch (const std::exception& error) {
    throw Error(ErrorCode::kUnsupported, error.what());
  }
}

void KeySearch::search_by(uint32_t n_explored, uint32_t budget) {
  budget_ = budget;
  indexes_->n_visited = indexes_->n_asked = 0;
  for (const auto& index : indexes_->of) {
    if (auto* graph = dynamic_cast<faiss::IndexHNSW*>(index.get()))
      graph->hnsw.efSearch = static_cast<int>(n_explored);
    if (auto* lists = dynamic_cast<faiss::IndexIVF*>(index.get())) lists->nprobe = n_explored;
  }
}

std::vector<Attended> KeySearch::attend(uint32_t stream, uint32_t step) {
  const std::vector<float> q = on_.query(stream, step);
  std::vector<Attended> heads(on_.group());
  Visits visits(on_.n_candidates());
  for (uint32_t head = 0; head < on_.group(); ++head) {
    heads[head].positions = indexes_->search(stream, q.data() + uint64_t{head} * on_.head_dim(),
                                             on_.head_dim(), on_.room(budget_, step), visits);
    for (uint32_t& at : heads[head].positions) at += on_.first();
  }
  indexes_->n_visited += visits.count();
  ++indexes_->n_asked;
  return heads;
}

IndexBytes KeySearch::bytes() const {
  const uint64_t n = on_.n_candidates();
  uint64_t kept = 0;
  if (const auto* graph = dynamic_cast<const faiss::IndexHNSW*>(indexes_->of[0].get()))
    kept = graph->hnsw.neighbors.size() * sizeof(graph->hnsw.neighbors[0]) +
           n * (sizeof(graph->hnsw.levels[0]) + sizeof(graph->hnsw.offsets[0]));
  if (const auto* lists = dynamic_cast<const faiss::IndexIVF*>(indexes_->of[0].get()))
    kept = n * sizeof(int64_t) + lists->nlist * (on_.head_dim() + 1) * sizeof(float);
  const double visited =
      static_cast<double>(indexes_->n_visited) / static_cast<double>(indexes_->n_asked);
  return {.kept = static_cast<double>(kept) / static_cast<double>(n),
          .read = visited * 2.0 * on_.head_dim() / static_cast<double>(n),
          .reads_keys = true};
}

VisitFigures KeySearch::visits(bool of_keys) {
  uint64_t visited = 0, n_found = 0, n_queries = 0;
  const auto ask = [&](uint32_t stream, const float* q) {
    std::vector<double> products;
    for (uint32_t at = on_.first(); at < on_.end(); ++at)
      products.push_back(double{dot(q, on_.key(stream, at), on_.head_dim())});
    std::vector<uint32_t> wanted = largest_positions(on_, products, kAsked);
    for (uint32_t& at : wanted) at -= on_.first();
    Visits visits(on_.n_candidates());
    const auto found = indexes_->search(stream, q, on_.head_dim(), kAsked, visits);
    visited += visits.count();
    std::vector<uint32_t> both;
    std::ranges::set_intersection(wanted, found, std::back_inserter(both));
    n_found += both.size();
    ++n_queries;
  };
  for (uint32_t stream = 0; stream < on_.n_streams(); ++stream) {
    for (uint32_t at = on_.end(); of_keys && at < on_.n_blocks() * kBlockPositions; ++at)
      ask(stream, on_.key(stream, at));
    for (uint32_t step = 0; !of_keys && step < on_.n_judged(); ++step) {
      const std::vector<float> q = on_.query(stream, step);
      for (uint32_t head = 0; head < on_.group(); ++head)
        ask(stream, q.data() + uint64_t{head} * on_.head_dim());
    }
  }
  const auto n = static_cast<double>(n_queries);
  return {.visited = static_cast<double>(visited) / (n * on_.n_candidates()),
          .recall = static_cast<double>(n_found) / (n * std::min(kAsked, on_.n_candidates()))};
}

#else

struct KeySearch::Indexes {};

bool KeySearch::is_there() { return false; }

KeySearch::KeySearch(const TraceCase& on, const std::string&) : on_(on) {
  throw Error(ErrorCode::kUnsupported, "FAISS is not installed", "", "install libfaiss-dev");
}

void KeySearch::search_by(uint32_t, uint32_t) {}
std::vector<Attended> KeySearch::attend(uint32_t, uint32_t) { return {}; }
IndexBytes KeySearch::bytes() const { return {}; }
VisitFigures KeySearch::visits(bool) { return {}; }

#endif

KeySearch::~KeySearch() = default;

}  // namespace strata::rivals
