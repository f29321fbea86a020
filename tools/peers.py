#!/usr/bin/env python3
"""Strata beside other engines, in turns, on one model: tokens/s of each, and their ratio round by round.

    tools/peers.py -m MODEL --strata build/release/tools/strata --peer llama.cpp=PATH/llama-bench [--peer NAME=PATH]...
        [--tests pp512,pp4096,tg32,tg32@8192] [--rounds 5] [--threads 2] [--peer-modes 'FA;no FA'] [--raw FILE]

A peer is a `llama-bench`, of llama.cpp or of a fork of it, built by whoever measures. Each engine runs in each of its modes
(flash attention, type of K and V) in the first round, and in its best mode of that round, test by test, in the others. In
every round another engine begins. A test is ppN (N tokens read), tgN (N decoded), or tgN@D (N decoded behind D tokens: a
llama-bench reads those, tools/peers/deep_decode.cc in its place fills them in seconds, Strata's K and V before them are random; all cost
the same to attend).

Prints a Markdown table: median and range over the rounds, the ratio to the best peer of the same round as median and
range, and the bandwidth of memory that Strata measured beside. --raw adds every run to a file, a JSON object a line.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

STRATA_MODES = {"f16": [], "q8_0": ["-ctk", "q8_0", "-ctv", "q8_0"]}
PEER_MODES = {
    "no FA": ["-fa", "0"],
    "FA": ["-fa", "1"],
    "FA, q8_0": ["-fa", "1", "-ctk", "q8_0", "-ctv", "q8_0"],
}
REPACK = {"FA, repacked": ["-fa", "1", "-rtr", "1"]}


class Test:
    """ppN, tgN or tgN@D."""

    def __init__(self, name):
        what, _, depth = name.partition("@")
        self.name, self.depth = name, int(depth or 0)
        if what[:2] not in ("pp", "tg") or (what[:2] == "pp" and self.depth):
            raise argparse.ArgumentTypeError(f"{name} is no test: ppN, tgN or tgN@D")
        self.n_prompt = int(what[2:]) if what[:2] == "pp" else 0
        self.n_gen = int(what[2:]) if what[:2] == "tg" else 0


class Engine:
    """One program and its modes; `best` names the mode that a test goes on with."""

    def __init__(self, name, program, arguments):
        self.name, self.program, self.arguments = name, program, arguments
        self.is_peer = name != "Strata"
        self.modes, self.best = STRATA_MODES, {}
        if self.is_peer:
            usage = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
            self.takes_depth = "--n-depth" in usage
            self.modes = PEER_MODES | (REPACK if "-rtr" in usage else {})
            wanted = arguments.peer_modes
            self.modes = {mode: flags for mode, flags in self.modes.items() if not wanted or mode in wanted}

    def command(self, test, mode):
        command = [self.program, *([] if self.is_peer else ["bench", "--allow-untrained"]), "-m", self.arguments.model,
                   "-t", str(self.arguments.threads), "-r", "1", *self.modes[mode], *(["-o", "json"] if self.is_peer else ["--json"])]
        if not test.depth or not self.is_peer or self.takes_depth:
            command += ["-p", str(test.n_prompt), "-n", str(test.n_gen)]
            if test.depth:
                command += ["-d", str(test.depth)]
            if test.depth and not self.is_peer:
                command += ["--depth-fill", "random"]
        else:
            command += ["-p", "0", "-n", "0", "-gp", f"{test.depth},{test.n_gen}"]
        return command

    def run(self, test, mode, round_idx):
        """Tokens a second, and GB/s of memory where the engine says."""
        done = subprocess.run(self.command(test, mode), capture_output=True, text=True, check=False)
        try:
            result = json.loads(done.stdout if done.returncode == 0 else "")[-1]
            rate = float(result["avg_ts"])
        except (ValueError, LookupError):
            raise RuntimeError(f"{self.name} gave no result: {' '.join(done.args)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}") from None
        if self.arguments.raw:
            with open(self.arguments.raw, "a", encoding="utf-8") as raw:
                raw.write(json.dumps({"engine": self.name, "mode": mode, "test": test.name, "round": round_idx, "result": result}) + "\n")
        return rate, result.get("dram_gbytes_per_s")


def measure(engines, tests, n_rounds):
    """rates[test][engine] = one of each round, in the engine's best mode; what memory gave beside; and what ended it early:
    Ctrl-C, or an engine that gives no result."""
    rates = {test.name: {engine.name: [] for engine in engines} for test in tests}
    memory = []
    runs = [(round_idx, test, engines[(k + round_idx) % len(engines)])
            for round_idx in range(n_rounds) for test in tests for k in range(len(engines))]
    ended_by = None
    try:
        for round_idx, test, engine in runs:
            modes = [engine.best[test.name]] if round_idx else list(engine.modes)
            found = {mode: engine.run(test, mode, round_idx) for mode in modes}
            best = max(found, key=lambda mode: found[mode][0])
            engine.best[test.name] = best
            rates[test.name][engine.name].append(found[best][0])
            memory += [found[best][1]] if found[best][1] else []
            print(f"round {round_idx + 1}, {test.name}, {engine.name}: " +
                  ", ".join(f"{mode} {rate:.1f}" for mode, (rate, _) in found.items()), file=sys.stderr, flush=True)
    except (KeyboardInterrupt, RuntimeError) as reason:
        ended_by = reason
        print(reason, file=sys.stderr)
        n_whole = {test.name: min(len(of) for of in rates[test.name].values()) for test in tests}
        print(f"Ended early; whole rounds: {n_whole}", file=sys.stderr)
        rates = {name: {engine: of[:n_whole[name]] for engine, of in found.items()} for name, found in rates.items()}
    return rates, memory, ended_by


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(engines, tests, rates, memory):
    peers = [engine for engine in engines if engine.is_peer]
    lines = ["| tokens/s | " + " | ".join(engine.name for engine in engines) + " | ratio to the best peer |",
             "|---" * (len(engines) + 2) + "|"]
    for test in tests:
        of = rates[test.name]
        if not of["Strata"]:
            continue
        ratios = [mine / max(of[peer.name][k] for peer in peers) for k, mine in enumerate(of["Strata"])]
        cells = [f"{spread(of[engine.name], 1)}, {engine.best[test.name]}" for engine in engines]
        lines.append(f"| {test.name} | " + " | ".join(cells) + f" | {spread(ratios, 2)} |")
    if memory:
        lines.append(f"\nMemory read beside: {spread(memory, 1)} GB/s.")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--strata", required=True, help="the program")
    parser.add_argument("--peer", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--tests", default="pp512,pp4096,tg32,tg32@8192", type=lambda names: [Test(name) for name in names.split(",")])
    parser.add_argument("--peer-modes", type=lambda names: names.split(";"), metavar="MODE[;MODE]...",
                        help="of 'no FA;FA;FA, q8_0;FA, repacked' those to try; all where it is not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--raw", help="every run, a JSON object a line")
    arguments = parser.parse_args()
    engines = [Engine("Strata", arguments.strata, arguments)]
    engines += [Engine(*peer.split("=", 1), arguments) for peer in arguments.peer]
    for engine in engines:
        if not engine.modes:
            parser.error(f"{engine.name} knows none of --peer-modes {arguments.peer_modes}")
    rates, memory, ended_by = measure(engines, arguments.tests, arguments.rounds)
    print(table(engines, arguments.tests, rates, memory))
    sys.exit(1 if ended_by else 0)


if __name__ == "__main__":
    main()
