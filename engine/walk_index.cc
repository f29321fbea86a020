// engine/walk_index.cc - what steps have computed goes into the index of its sequence: blocks that
// are full, as they close, or later, from where they are.
#include <algorithm>

#include "engine/walk_select.h"

namespace strata::engine {

/// Takes the blocks that a step has filled into the index, while they are in DRAM.
void Walk::State::index_closed(Sequence& sequence, uint32_t held_pos) {
  index::Selector* index = sequence.index();
  if (index == nullptr) return;
  const uint32_t first = sequence.n_indexed();
  const uint32_t end = sequence.n_pos() / kBlockPositions;
  if (first < held_pos / kBlockPositions) return;  // after what was missed: index_missed()
  pool.for_each(cache.n_index_streams(), 1, [&](uint64_t from, uint64_t to, uint32_t) {
    for (auto stream = static_cast<index::StreamIdx>(from); stream < to; ++stream) {
      const uint32_t layer = cache.layer_of_index_stream(stream);
      const auto all = cache.stream_blocks(sequence, layer, stream - cache.index_stream(layer, 0));
      for (uint32_t block = first; block < end; ++block)
        index->observe(stream, block, cache.store().bytes(all.blocks[block]));
    }
  });
  sequence.set_n_indexed(end);
}

/// Reads back the blocks that came without rows of an index and takes them into it.
void Walk::State::index_missed(Sequence& sequence) {
  const uint32_t end = sequence.n_pos() / kBlockPositions;
  while (sequence.n_indexed() < end) {
    const uint32_t first = sequence.n_indexed();
    const uint32_t n = std::min(end - first, kExtentBlocks - first % kExtentBlocks);
    for (uint32_t layer = 0; layer < shape.n_layers; ++layer) {
      if (shape.layers[layer].window > 0) continue;
      check_cancelled();
      const ExtentBytes held = cache.hold_extent(sequence, layer, first * kBlockPositions, n);
      pool.for_each(shape.layers[layer].n_kv_heads, 1, [&](uint64_t from, uint64_t to, uint32_t) {
        for (uint64_t head = from; head < to; ++head)
          for (uint32_t i = 0; i < n; ++i)
            sequence.index()->observe(cache.index_stream(layer, static_cast<uint32_t>(head)),
                                      first + i, held.blocks[head * n + i]);
      });
      cache.release_extent(held);
    }
    sequence.set_n_indexed(first + n);
  }
}

}  // namespace strata::engine
