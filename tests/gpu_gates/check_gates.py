"""Judges the machine code of the kernels: check_gates.py FILE [--expected FILE] [--want SM,SM...] [--update] [--print]

FILE is the CUDA module, an object of nvcc or a cubin. What no kernel may have, with any compiler: local memory (spills
and arrays that a register cannot hold), arithmetic in double precision, no launch bounds. What may not grow or get lost
against the checked-in table, where --update writes what FILE has code for: registers (5 %), shared memory, blocks per
multiprocessor on the cards of occupancy.py, and the instructions that a kernel is written for. What the table has of
other architectures stays, of kernels that there are. --want: FILE has to have code for these. --print shows the table of FILE as Markdown.

"dynamic_shared" of the table is written by hand: the bytes of a launch's dynamic shared memory by a pattern of names.
Exit codes: 0 good, 1 findings, 2 usage or a file that cannot be read.
"""
import argparse
import fnmatch
import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cubin  # noqa: E402
import occupancy  # noqa: E402

REGISTER_GROWTH = 1.05
PROMISED = ("HMMA", "IMMA", "LDGSTS", "LDSM", "IDP", "LDG128", "LD128", "STG128", "ST128")
DOUBLES = ("DFMA", "DADD", "DMUL")


def dynamic_shared(expected, name):
    for pattern, size in expected["dynamic_shared"].items():
        if fnmatch.fnmatchcase(name, pattern):
            return size
    return 0


def measured(kernels, expected):
    """{name: {arch: facts}}, sorted, as the table holds it."""
    table = {}
    for kernel in sorted(kernels, key=lambda kernel: (kernel.plain, kernel.arch)):
        shared = kernel.shared + dynamic_shared(expected, kernel.plain)
        cards = [card for card in occupancy.CARDS if occupancy.runs(card, kernel.arch)]
        table.setdefault(kernel.plain, {})[str(kernel.arch)] = {
            "registers": kernel.registers,
            "threads": kernel.threads,
            "shared": kernel.shared,
            "blocks": {card: occupancy.blocks(card, kernel.registers, kernel.threads or 1024, shared) for card in cards},
            "opcodes": {name: kernel.opcodes[name] for name in PROMISED if kernel.opcodes.get(name)},
        }
    return table


def forbidden(kernels):
    for kernel in kernels:
        where = f"{kernel.plain} (sm_{kernel.arch})"
        local = kernel.opcodes.get("LDL", 0) + kernel.opcodes.get("STL", 0)
        if kernel.stack or local:
            yield f"{where}: local memory, {kernel.stack} bytes of stack, {local} loads and stores"
        doubles = sum(kernel.opcodes.get(name, 0) for name in DOUBLES)
        if doubles:
            yield f"{where}: {doubles} instructions in double precision"
        if not kernel.threads:
            yield f"{where}: no __launch_bounds__"


def worse(where, now, before):
    """What is worse in the facts `now` of a kernel than in those of the table."""
    if now["registers"] > before["registers"] * REGISTER_GROWTH:
        yield f"{where}: {now['registers']} registers, {before['registers']} before"
    if now["shared"] > before["shared"]:
        yield f"{where}: {now['shared']} bytes of shared memory, {before['shared']} before"
    if now["threads"] != before["threads"]:
        yield f"{where}: {now['threads']} threads, {before['threads']} before"
    for card, blocks in before["blocks"].items():
        if now["blocks"].get(card, blocks) < blocks:
            yield f"{where}: {now['blocks'][card]} blocks on a multiprocessor of {card}, {blocks} before"
    for name in before["opcodes"]:
        if name not in now["opcodes"]:
            yield f"{where}: no {name} any more"


def compared(table, expected):
    known_archs = {arch for facts in expected["kernels"].values() for arch in facts}
    for name, archs in table.items():
        before = expected["kernels"].get(name)
        if before is None:
            yield f"{name}: not in the table"
            continue
        for arch, now in archs.items():
            if arch in before:
                yield from worse(f"{name} (sm_{arch})", now, before[arch])
            elif arch in known_archs:
                yield f"{name} (sm_{arch}): not in the table"
    for name in expected["kernels"]:
        if name not in table:
            yield f"{name}: in the table, and no such kernel"
    for pattern in expected["dynamic_shared"]:
        if not fnmatch.filter(table, pattern):
            yield f"dynamic_shared of {pattern}: no such kernel"


def updated(table, before):
    """The table, with what `before` knows of its kernels for other architectures."""
    kept = {name: before.get(name, {}) | archs for name, archs in table.items()}
    return {name: dict(sorted(archs.items(), key=lambda item: int(item[0]))) for name, archs in kept.items()}


def write_table(path, expected):
    """One line per kernel and architecture, so that a change reads as one."""
    sizes = ",\n".join(f"  {json.dumps(name)}: {size}" for name, size in expected["dynamic_shared"].items())
    table = expected["kernels"]
    lines = ["{", f' "compiler": {json.dumps(expected["compiler"])},', ' "dynamic_shared": {', *sizes.splitlines(), " },", ' "kernels": {']
    for i, (name, archs) in enumerate(table.items()):
        facts = ",\n".join(f"   {json.dumps(arch)}: {json.dumps(archs[arch])}" for arch in archs)
        comma = "," if i + 1 < len(table) else ""
        lines += [f"  {json.dumps(name)}: {{", facts, f"  }}{comma}"]
    lines += [" }", "}"]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def print_table(table):
    print("| kernel | sm | registers | threads | shared | blocks | instructions |\n|---|---:|---:|---:|---:|---|---|")
    for name, archs in table.items():
        for arch, facts in archs.items():
            lists = [", ".join(f"{key} {value}" for key, value in facts[what].items()) for what in ("blocks", "opcodes")]
            cells = [name, arch, facts["registers"], facts["threads"], facts["shared"], *lists]
            print("| " + " | ".join(str(cell) for cell in cells) + " |")


def main():
    parser = argparse.ArgumentParser(description="Judges the machine code of the kernels.")
    parser.add_argument("file")
    parser.add_argument("--expected", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "expected.json"))
    parser.add_argument("--want", default="")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--print", action="store_true", dest="shows")
    options = parser.parse_args()
    try:
        kernels = cubin.read_file(options.file)
        with open(options.expected, encoding="utf-8") as file:
            expected = json.load(file)
    except (OSError, ValueError, cubin.Unreadable) as error:
        print(f"{options.file}: {error}")
        return 2
    cubin.plain_names(kernels)
    table = measured(kernels, expected)
    compiler = cubin.compiler_of(options.file)
    if options.shows:
        print_table(table)
    if options.update:
        kept = expected["kernels"] if compiler == expected["compiler"] else {}
        expected["kernels"], expected["compiler"] = updated(table, kept), compiler
        write_table(options.expected, expected)
    findings = list(forbidden(kernels))
    found = {str(kernel.arch) for kernel in kernels}
    findings += [f"no code for sm_{arch}" for arch in options.want.split(",") if arch and arch not in found]
    if compiler == expected["compiler"]:
        findings += compared(table, expected)
    else:
        print(f"the table is of compiler {expected['compiler']}, this is {compiler}: growth is not judged")
    for finding in findings:
        print(finding)
    print(f"{len(kernels)} kernels, {len(findings)} findings" +
          (" (check_gates.py --update, where they are meant)" if findings else ""))
    return 1 if findings or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
