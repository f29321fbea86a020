// gpu_attn/kernels.h - the operations of base/device_kernels.h, one function each: they choose a
// kernel for the shape and queue it. The table joins them for the card and for the emulator alike.
#pragma once

#include "base/device_kernels.h"

namespace strata::gpu_attn {

int embed(DeviceStream* stream, const DeviceEmbedArgs& args);
int norm(DeviceStream* stream, const DeviceNormArgs& args);
int quantize(DeviceStream* stream, const DeviceQuantizeArgs& args);
int linear(DeviceStream* stream, const DeviceLinearArgs& args);
/// The part of linear() for more than kDeviceFewRows rows: f16 and the tensor cores.
int linear_many_rows(DeviceStream* stream, const DeviceLinearArgs& args);
int rotate(DeviceStream* stream, const DeviceRotateArgs& args);
int attend(DeviceStream* stream, const DeviceAttendArgs& args);
int merge(DeviceStream* stream, const DeviceMergeArgs& args);
int prefill(DeviceStream* stream, const DevicePrefillArgs& args);
int activate(DeviceStream* stream, const DeviceActivateArgs& args);
int argmax(DeviceStream* stream, const DeviceArgmaxArgs& args);
int copy_blocks(DeviceStream* stream, const DeviceCopyBlocksArgs& args);
int set_words(DeviceStream* stream, const DeviceSetWordsArgs& args);
int scan_codes(DeviceStream* stream, const DeviceScanArgs& args);

inline DeviceKernels device_kernels() {
  return {.embed = embed,
          .norm = norm,
          .quantize = quantize,
          .linear = linear,
          .rotate = rotate,
          .attend = attend,
          .merge = merge,
          .prefill = prefill,
          .activate = activate,
          .argmax = argmax,
          .copy_blocks = copy_blocks,
          .set_words = set_words,
          .scan_codes = scan_codes};
}

}  // namespace strata::gpu_attn
