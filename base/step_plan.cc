#include "base/step_plan.h"

namespace strata {

const char* op_kind_name(OpKind kind) {
  switch (kind) {
    case OpKind::kEmbed:
      return "embed";
    case OpKind::kAttnNorm:
      return "attn_norm";
    case OpKind::kQkv:
      return "qkv";
    case OpKind::kAttend:
      return "attend";
    case OpKind::kAttnOutput:
      return "attn_output";
    case OpKind::kFfnNorm:
      return "ffn_norm";
    case OpKind::kFfnGateUp:
      return "ffn_gate_up";
    case OpKind::kFfnDown:
      return "ffn_down";
    case OpKind::kLogits:
      return "logits";
  }
  return "unknown";
}

}  // namespace strata
