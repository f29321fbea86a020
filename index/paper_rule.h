// index/paper_rule.h - what each method's paper attends in a step, as a preset (`--kv-budget
// paper`): its budget, what it always attends, how its queries agree, which layers it leaves dense.
// Why apart from index::Rule's defaults: those are what was measured to lose least here for all
// methods; a method is compared with its paper under the paper's rule. What a method keeps of keys
// is not part of it: docs/adr/0007-selected-blocks.md has a table of what differs there.
//
//   quest      arXiv 2406.10774 and its scripts: 1,024 tokens, the last page always (of 16; here a
//              block), layers 0 and 1 dense. It chooses for each query head; here its KV head does.
//   cuboid     ArkVale (NeurIPS 2024): 2 first and 2 last pages of 32, a cache of 2,048 tokens that
//              are all attended, layers 0 and 1 dense. It means scores over a layer's heads.
//   mean       ShadowKV (arXiv 2410.21465): 2,048 tokens, the largest share of a group's queries,
//              its last 32 tokens; a block of first ones stands for its 48 outlying chunks.
//   pq         PQCache (arXiv 2407.12820): a tenth of the context, half of it the latest tokens, 32
//              first ones, shares of a group's queries summed.
//   rabitq     ParisKV (arXiv 2602.07721): 64 first and 256 last tokens and 100 others.
//   cluster    RetroInfer (arXiv 2505.02922): 4 first and 64 last tokens, 1.8 % of the clusters,
//              shares summed; of the others 23.2 % are estimated, with `cluster+tail` here all.
//   sparq      SparQ (arXiv 2312.04985) and its scripts: 128 tokens, a quarter of them the latest;
//              scores of a group's queries summed.
//   recent     StreamingLLM (arXiv 2309.17453): 4 first tokens and 1,020 last ones.
// Tokens are rounded to blocks of 32. The oracle has no paper.
#pragma once

#include "index/choose.h"
#include "index/method.h"

namespace strata::index {

/// Errors: kUsage where the method has no paper.
Rule paper_rule(Method method);

}  // namespace strata::index
