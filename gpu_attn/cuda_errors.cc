#include "gpu_attn/cuda_errors.h"

namespace strata::gpu_attn {

DeviceStatus cuda_status(int error) {
  if (error == 0) return DeviceStatus::kOk;
  if (error == kOldCardError) return DeviceStatus::kUnsupported;
  if (error == kNoDriverError || error >= kCountErrors) return DeviceStatus::kNoDevice;
  if (error >= kPinErrors) return DeviceStatus::kPinRefused;
  switch (error) {
    case 2:  // MemoryAllocation
      return DeviceStatus::kOutOfMemory;
    case 34:   // StubLibrary
    case 100:  // NoDevice
    case 101:  // InvalidDevice
    case 102:  // DeviceNotLicensed
    case 802:  // SystemNotReady
      return DeviceStatus::kNoDevice;
    case 46:  // DevicesUnavailable
      return DeviceStatus::kInUse;
    case 35:   // InsufficientDriver
    case 36:   // CallRequiresNewerDriver
    case 222:  // UnsupportedPtxVersion
    case 803:  // SystemDriverMismatch
    case 804:  // CompatNotSupportedOnDevice
      return DeviceStatus::kOldDriver;
    case 98:   // InvalidDeviceFunction
    case 209:  // NoKernelImageForDevice
    case 221:  // JitCompilerNotFound
    case 223:  // JitCompilationDisabled
      return DeviceStatus::kUnsupported;
    case 4:    // CudartUnloading
    case 214:  // ECCUncorrectable
    case 220:  // NvlinkUncorrectable
    case 226:  // Contained
    case 700:  // IllegalAddress
    case 702:  // LaunchTimeout
    case 709:  // ContextIsDestroyed
    case 710:  // Assert
    case 714:  // HardwareStackError
    case 715:  // IllegalInstruction
    case 716:  // MisalignedAddress
    case 717:  // InvalidAddressSpace
    case 718:  // InvalidPc
    case 719:  // LaunchFailure
    case 721:  // TensorMemoryLeak
    case 806:  // MpsRpcFailure
    case 810:  // MpsClientTerminated
      return DeviceStatus::kLost;
    default:
      return DeviceStatus::kFailed;
  }
}

std::string_view own_words(int error) {
  switch (error) {
    case kNoDriverError:
      return "no NVIDIA driver is installed";
    case kOldCardError:
      return "its compute capability is below 8.0";
    default:
      return {};
  }
}

int pin_error(int error) {
  return error == 0 || cuda_status(error) == DeviceStatus::kLost ? error : kPinErrors + error;
}

int count_error(int error) {
  const DeviceStatus status = cuda_status(error);
  const bool is_said = status == DeviceStatus::kOk || status == DeviceStatus::kNoDevice ||
                       status == DeviceStatus::kOldDriver;
  return is_said ? error : kCountErrors + error;
}

}  // namespace strata::gpu_attn
