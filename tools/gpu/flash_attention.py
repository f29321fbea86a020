"""Times PyTorch's attention on a card, the peer of tools/gpu/bench_prefill.cc.

Rows of a chunk, the last of a text, attend all before them: the mask is aligned to the lower right. What a backend
takes for that is tried in order, and the first that gives the right answer is timed and named in the note: a causal
mask that it computes itself, else a mask of booleans that it reads; K and V of the KV heads, else repeated for every
query head before the time begins. f16, random, inputs rotated beyond the second cache. Three rows are compared with float32 first.
Times are medians of batches by events, queued while the card is kept waiting; TFLOP/s count two products of head_dim
per pair (row, position) and query head.

Exit codes: 0 good, 77 PyTorch, a card or a backend is missing.
"""
import sys

SHAPES = (  # model, KV heads, query heads of each, head_dim, rows, positions
    ("8B", 8, 4, 128, 512, 32768),
    ("8B", 8, 4, 128, 2048, 32768),
    ("8B", 8, 4, 128, 512, 2048),
    ("SmolLM2", 3, 3, 64, 512, 8192),
    ("256 wide", 4, 2, 256, 512, 8192),
)
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION")
CACHE_BYTES = 192 << 20  # what the sets of inputs exceed
BATCH_US = 2000
BATCHES = 9
CLOCKS_PER_CALL = 400_000  # 200 us: a call takes the host less
HEAD = "| bench | us | spread | GB/s | TFLOP/s | share of | % | note |\n|---|---:|---:|---:|---:|---|---:|---|"


def attend_exactly(torch, q, k, v, head, row):
    """One row of one query head in float32."""
    group = q.shape[1] // k.shape[1]
    n_seen = k.shape[2] - q.shape[2] + row + 1
    query = q[0, head, row].float()
    scores = k[0, head // group, :n_seen].float() @ query / query.numel() ** 0.5
    return torch.softmax(scores, dim=0) @ v[0, head // group, :n_seen].float()


def is_right(torch, out, q, k, v):
    if out.shape != q.shape:
        return False
    for head, row in ((0, 0), (1, q.shape[2] // 2), (q.shape[1] - 1, q.shape[2] - 1)):
        wanted = attend_exactly(torch, q, k, v, head, row)
        error = (out[0, head, row].float() - wanted).abs().max().item()
        if not error <= 0.02 * wanted.abs().max().item():
            return False
    return True


def candidates(torch, backend, n_rows, n_positions):
    """(name, whether K and V are repeated, attention of q, k, v) of all that the backend may take, the best first."""
    from torch.nn.attention.bias import causal_lower_right

    sdpa = torch.nn.functional.scaled_dot_product_attention
    bias = causal_lower_right(n_rows, n_positions)
    found = []
    for is_repeated in (False, True):
        options = {} if is_repeated else {"enable_gqa": True}
        suffix = ", K and V repeated" if is_repeated else ", GQA"
        if backend == "FLASH_ATTENTION":
            found.append(("causal_lower_right" + suffix, is_repeated,
                          lambda q, k, v, options=options: sdpa(q, k, v, attn_mask=bias, **options)))
            found.append(("its operator" + suffix, is_repeated,
                          lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention(
                              q, k, v, dropout_p=0.0, is_causal=True)[0]))
        else:
            found.append(("is_causal" + suffix, is_repeated,
                          lambda q, k, v, options=options: sdpa(q, k, v, is_causal=True, **options)))
    if backend != "FLASH_ATTENTION":
        mask = torch.ones(n_rows, n_positions, dtype=torch.bool, device="cuda").tril(n_positions - n_rows)
        for is_repeated in (False, True):
            options = {} if is_repeated else {"enable_gqa": True}
            suffix = ", K and V repeated" if is_repeated else ", GQA"
            found.append(("a mask of booleans" + suffix, is_repeated,
                          lambda q, k, v, options=options: sdpa(q, k, v, attn_mask=mask, **options)))
    return found


def draw(torch, shape):
    """Sets of q [1, heads, rows, head_dim], k and v [1, KV heads, positions, head_dim]."""
    _, n_kv_heads, group, head_dim, n_rows, n_positions = shape
    set_bytes = 4 * n_kv_heads * n_positions * head_dim

    def tensor(heads, length):
        return torch.randn(1, heads, length, head_dim, device="cuda", dtype=torch.float16)

    return [(tensor(n_kv_heads * group, n_rows), tensor(n_kv_heads, n_positions), tensor(n_kv_heads, n_positions))
            for _ in range(CACHE_BYTES // set_bytes + 1)]


def batch_us(torch, attend, sets, n_runs):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(CLOCKS_PER_CALL * n_runs)
    begin.record()
    for i in range(n_runs):
        attend(*sets[i % len(sets)])
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / n_runs


def chosen(torch, backend, shape, sets):
    """(name, attention, its sets) of the first candidate that is right, or None; says why the others are not."""
    group, n_rows, n_positions = shape[2], shape[4], shape[5]
    for name, is_repeated, attend in candidates(torch, backend, n_rows, n_positions):
        q, k, v = sets[0]
        if is_repeated:
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        try:
            right = is_right(torch, attend(q, k, v), *sets[0])
            why = "gives other answers"
        except (RuntimeError, TypeError, ValueError) as error:
            right, why = False, "is refused: " + str(error).strip().splitlines()[0][:160]
        if right:
            if is_repeated:
                sets = [(q, *(x.repeat_interleave(group, dim=1) for x in (k, v))) for q, k, v in sets]
            return name, attend, sets
        print(f"{backend}, {shape[0]} {n_rows} rows at {n_positions}: {name} {why}")
    return None


def bench(torch, backend, shape):
    """Prints a row; False where the backend takes nothing."""
    model, n_kv_heads, group, head_dim, n_rows, n_positions = shape
    sets = draw(torch, shape)
    choice = chosen(torch, backend, shape, sets)
    if choice is None:
        return False
    name, attend, sets = choice
    for _ in range(2):
        one_us = batch_us(torch, attend, sets, 3)  # the first ones choose their kernels
    n_runs = max(1, min(32, round(BATCH_US / one_us)))
    us = sorted(batch_us(torch, attend, sets, n_runs) for _ in range(BATCHES))
    median = us[BATCHES // 2]
    n_pairs = n_rows * (n_positions - n_rows) + n_rows * (n_rows + 1) // 2
    flop = 4 * head_dim * n_pairs * n_kv_heads * group
    spread = (us[-2] - us[1]) / median * 100
    print(f"| {backend} {model} f16 {n_rows} rows at {n_positions} | {median:.2f} | {spread:.1f} % | "
          f"| {flop / median / 1e6:.2f} | | | {name} |", flush=True)
    return True


def main():
    try:
        import torch
    except ImportError as error:
        print(f"there is no PyTorch: {error}")
        return 77
    if not torch.cuda.is_available():
        print("there is no card that PyTorch can use")
        return 77
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else "none"
    print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}, {torch.cuda.get_device_name()}")
    print(HEAD)
    missing = []
    with torch.inference_mode():
        for backend in BACKENDS:
            if not hasattr(SDPBackend, backend):
                missing.append(backend)
                continue
            with sdpa_kernel(getattr(SDPBackend, backend)):
                taken = [bench(torch, backend, shape) for shape in SHAPES]
            if not any(taken):
                missing.append(backend)
    if missing:
        print("this PyTorch has no use of " + " and ".join(missing))
    return 77 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
