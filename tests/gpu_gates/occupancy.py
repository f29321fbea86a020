"""Blocks of a kernel that a multiprocessor holds at once, by the arithmetic of NVIDIA's cuda_occupancy.h (CUDA 13)."""

# name: (compute capability, warps, blocks, bytes of shared memory) of a multiprocessor, from the CUDA C++ Programming
# Guide's table "Technical Specifications per Compute Capability".
CARDS = {
    "RTX 3060": (86, 48, 16, 100 * 1024),
    "RTX 4090": (89, 48, 24, 100 * 1024),
    "RTX 5090": (120, 48, 24, 100 * 1024),
    "H200": (90, 64, 32, 228 * 1024),
}
REGISTERS = 65536  # of a multiprocessor, in four parts
PARTS = 4
REGISTER_GRAIN = 256  # of a warp
SHARED_GRAIN = 128
SHARED_RESERVED = 1024  # of each block, for the system


def round_up(value, grain):
    return -(-value // grain) * grain


def blocks(card, registers, threads, shared):
    """`shared` is static and dynamic together."""
    _, warps_max, blocks_max, shared_max = CARDS[card]
    warps = -(-threads // 32)
    per_warp = round_up(max(registers, 1) * 32, REGISTER_GRAIN)
    if per_warp * round_up(warps, PARTS) > REGISTERS:
        return 0
    by_registers = REGISTERS // PARTS // per_warp * PARTS // warps
    by_shared = shared_max // round_up(shared + SHARED_RESERVED, SHARED_GRAIN)
    return min(warps_max // warps, blocks_max, by_registers, by_shared)


def runs(card, arch):
    """Whether code of the architecture runs on the card: that of its generation, up to its own."""
    capability = CARDS[card][0]
    return arch // 10 == capability // 10 and arch <= capability
