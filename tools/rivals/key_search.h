// tools/rivals/key_search.h - RetrievalAttention's question: which keys have the largest products
// with a query head, asked of an index of vectors by FAISS, where that is installed.
// Source: RetrievalAttention (arXiv 2409.10516): off-the-shelf indexes visit many keys for queries,
//   which are distributed unlike keys; its own graph, made with queries, visits 1 to 3 %. FAISS has
//   no such graph: HNSW and inverted lists are those off the shelf.
// Inner products become distances by one more dimension: sqrt(largest |k|^2 - |k|^2) of a key, 0 of
//   a query. All candidates of a stream are indexed, each query head asks for itself.
#pragma once

#include <memory>
#include <string>

#include "tools/rivals/judge.h"

namespace strata::rivals {

/// Of queries that ask for the 100 keys with the largest products.
struct VisitFigures {
  double visited = 0;  // share of the keys whose distance was computed
  double recall = 0;   // of the 100
};

class KeySearch : public Rival {
 public:
  static bool is_there();  // whether FAISS is
  /// `factory` such as "HNSW16,Flat" or "IVF128,Flat". From then on OpenMP takes one thread in all
  /// of the process: links depend on the order in which threads add keys.
  /// Errors: kUnsupported where FAISS is not, or makes no such index of so few candidates.
  KeySearch(const TraceCase& on, const std::string& factory);
  ~KeySearch() override;
  /// From now on: HNSW's efSearch or the lists that are probed, and what a query head attends.
  void search_by(uint32_t n_explored, uint32_t budget);
  std::vector<Attended> attend(uint32_t stream, uint32_t step) override;
  /// Kept: besides the keys a graph's links, levels and offsets, or the numbers and centroids of
  /// lists, as FAISS holds them. Read: keys that any head of the group visited, as f16. Not
  /// counted: a second copy of the keys position by position, their dimension more, links that are
  /// read, keys visited on a graph's upper levels, centroids that are compared.
  IndexBytes bytes() const override;

  /// The queries of the judged steps, or the window's keys as queries, which are distributed like
  /// those that are indexed.
  VisitFigures visits(bool of_keys);

 private:
  struct Indexes;
  const TraceCase& on_;
  uint32_t budget_ = 0;
  std::unique_ptr<Indexes> indexes_;
};

}  // namespace strata::rivals
