"""The gates themselves: gates_test.py NVCC CXX INCLUDE_OF_CUDA. Kernels with a planted fault must fail; each counted
instruction is found in a kernel that has it, so that a new compiler's encoding does not blind the gates."""
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(FOLDER))
sys.path.insert(0, FOLDER)
import cubin  # noqa: E402
import occupancy  # noqa: E402

NVCC = CXX = CUDA_INCLUDE = ""
KNOWN = {"HMMA": 1, "LDGSTS": 1, "LDSM": 1, "IDP": 1, "LDG128": 1, "STG128": 1, "LD128": 1, "ST128": 1}


class Gates(unittest.TestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = held.name

    def compiled(self, sample, *options, suffix="cubin"):
        path = os.path.join(self.folder, f"{sample}.{suffix}")
        command = [NVCC, "-std=c++20", "-I", ROOT, *options, os.path.join(FOLDER, "samples", sample + ".cu"), "-o", path]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def judged(self, path, *options, expected=None):
        """(exit code, text) of check_gates.py with a table of its own."""
        table = os.path.join(self.folder, "expected.json")
        if expected is not None:
            with open(table, "w", encoding="utf-8") as file:
                json.dump(expected, file)
        command = [sys.executable, os.path.join(FOLDER, "check_gates.py"), path, "--expected", table, *options]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    def empty(self, **more):
        return {"compiler": "", "dynamic_shared": {}, "kernels": {}} | more

    def table(self):
        with open(os.path.join(self.folder, "expected.json"), encoding="utf-8") as file:
            return json.load(file)

    def test_known_instructions_are_counted_on_every_architecture(self):
        for arch in (86, 90, 120):
            with self.subTest(arch=arch):
                kernel, = cubin.read_file(self.compiled("known", "-cubin", f"-arch=sm_{arch}"))
                self.assertEqual(kernel.arch, arch)
                self.assertEqual((kernel.threads, kernel.shared, kernel.stack), (128, 8192, 0))
                self.assertEqual({name: kernel.opcodes.get(name) for name in KNOWN}, KNOWN)
                self.assertFalse({"LDL", "STL", "DFMA", "DADD", "DMUL"} & set(kernel.opcodes))

    def test_registers_are_those_that_ptxas_says(self):
        path = os.path.join(self.folder, "known.cubin")
        ended = subprocess.run([NVCC, "-std=c++20", "-I", ROOT, "-cubin", "-arch=sm_90", "-Xptxas", "-v",
                                os.path.join(FOLDER, "samples", "known.cu"), "-o", path],
                               capture_output=True, text=True, check=True)
        kernel, = cubin.read_file(path)
        self.assertIn(f"Used {kernel.registers} registers", ended.stderr + ended.stdout)

    def test_spills_local_arrays_doubles_and_missing_bounds_fail(self):
        wanted = {"spills": ["spills/spills (sm_86): local memory"],
                  "local_array": ["local_array/local_array (sm_86): local memory, 64 bytes of stack"],
                  "doubles": ["3 instructions in double precision", "doubles/doubles (sm_86): no __launch_bounds__"]}
        for sample, findings in wanted.items():
            with self.subTest(sample=sample):
                code, text = self.judged(self.compiled(sample, "-cubin", "-arch=sm_86"), expected=self.empty())
                self.assertEqual(code, 1, text)
                for finding in findings:
                    self.assertIn(finding, text)
                # Nor does a table that has them make them good.
                self.judged(self.compiled(sample, "-cubin", "-arch=sm_86"), "--update")
                self.assertEqual(self.judged(os.path.join(self.folder, sample + ".cubin"))[0], 1)

    def test_what_grows_or_gets_lost_fails(self):
        path = self.compiled("known", "-arch=sm_86", "-c", "--no-compress", suffix="o")
        code, text = self.judged(path, "--update", expected=self.empty(dynamic_shared={"known/*": 4096}))
        self.assertEqual(code, 0, text)
        good = self.table()
        self.assertEqual(good["dynamic_shared"], {"known/*": 4096})
        facts = good["kernels"]["known/known"]["86"]
        self.assertEqual(facts["blocks"]["RTX 3060"], 7)  # of (8 + 4 + 1) KiB each in 100
        self.assertEqual(self.judged(path)[0], 0)
        registers = facts["registers"]
        changes = [("registers", registers * 20 // 21 - 1, f"{registers} registers"), ("shared", 4096, "8192 bytes of shared"),
                   ("threads", 64, "128 threads, 64 before"), ("blocks", {"RTX 3060": 8}, "7 blocks on a multiprocessor"),
                   ("opcodes", {"IMMA": 2}, "no IMMA any more")]
        for key, value, finding in changes:
            with self.subTest(key=key):
                changed = json.loads(json.dumps(good))
                changed["kernels"]["known/known"]["86"][key] = value
                code, text = self.judged(path, expected=changed)
                self.assertEqual(code, 1, text)
                self.assertIn(finding, text)
                self.assertIn("1 kernels, 1 findings", text)
        little = json.loads(json.dumps(good))
        little["kernels"]["known/known"]["86"]["registers"] = registers - 1
        self.assertEqual(self.judged(path, expected=little)[0], 0, "less than 5 %")

    def test_code_of_a_generation_is_judged_on_its_later_cards(self):
        cards = {80: ["RTX 3060", "RTX 4090"], 86: ["RTX 3060", "RTX 4090"], 89: ["RTX 4090"], 90: ["H200"], 120: ["RTX 5090"]}
        for arch, wanted in cards.items():
            self.assertEqual([card for card in occupancy.CARDS if occupancy.runs(card, arch)], wanted)

    def test_code_that_is_wanted_and_absent_fails(self):
        path = self.compiled("known", "-cubin", "-arch=sm_86")
        self.judged(path, "--update", expected=self.empty())
        self.assertEqual(self.judged(path, "--want", "86")[0], 0)
        code, text = self.judged(path, "--want", "86,120")
        self.assertEqual(code, 1)
        self.assertIn("no code for sm_120", text)

    def test_an_update_keeps_what_other_architectures_have(self):
        self.judged(self.compiled("known", "-cubin", "-arch=sm_120"), "--update", expected=self.empty())
        facts = self.table()["kernels"]["known/known"]
        self.assertEqual(list(facts), ["120"])
        gone = {"gone/gone": facts}
        path = self.compiled("known", "-cubin", "-arch=sm_86")
        self.judged(path, "--update", expected=self.table() | {"kernels": self.table()["kernels"] | gone})
        after = self.table()["kernels"]
        self.assertEqual(list(after), ["known/known"])
        self.assertEqual(list(after["known/known"]), ["86", "120"])
        self.assertEqual(after["known/known"]["120"], facts["120"])
        # Not of another compiler.
        self.judged(path, "--update", expected=self.table() | {"compiler": "1.2.3"})
        self.assertEqual(list(self.table()["kernels"]["known/known"]), ["86"])

    def test_unknown_and_vanished_kernels_fail(self):
        path = self.compiled("known", "-cubin", "-arch=sm_86")
        self.judged(path, "--update", expected=self.empty())
        good = self.table()
        vanished = json.loads(json.dumps(good))
        vanished["kernels"]["gone/gone"] = vanished["kernels"]["known/known"]
        self.assertIn("gone/gone: in the table, and no such kernel", self.judged(path, expected=vanished)[1])
        self.assertIn("known/known: not in the table", self.judged(path, expected=good | {"kernels": {}})[1])
        stale = good | {"dynamic_shared": {"gone/*": 1}}
        self.assertIn("dynamic_shared of gone/*: no such kernel", self.judged(path, expected=stale)[1])
        other = good | {"compiler": "1.2.3", "kernels": {}}
        code, text = self.judged(path, expected=other)
        self.assertEqual(code, 0, text)
        self.assertIn("growth is not judged", text)

    def test_files_without_readable_code_are_refused(self):
        compressed = self.compiled("known", "-arch=sm_86", "-c", "-compress-mode=size", suffix="o")
        self.assertIn("compressed", self.judged(compressed, expected=self.empty())[1])
        text = os.path.join(self.folder, "text")
        with open(text, "w", encoding="utf-8") as file:
            file.write("no code at all, but longer than a header of an ELF file would be, for what it is worth\n")
        self.assertEqual(self.judged(text)[0], 2)
        self.assertEqual(self.judged(text + "-absent")[0], 2)

    def test_occupancy_is_nvidias(self):
        program = os.path.join(self.folder, "occupancy_of")
        subprocess.run([CXX, "-std=c++20", "-isystem", CUDA_INCLUDE, os.path.join(FOLDER, "samples", "occupancy_of.cc"),
                        "-o", program], check=True)
        seed = random.randrange(1 << 32)
        draw = random.Random(seed)
        cases = []
        for card, (capability, warps, _, shared_max) in occupancy.CARDS.items():
            for _ in range(500):
                shared = draw.choice([0, draw.randrange(shared_max - 1024), draw.randrange(20000)])
                cases.append((card, capability, warps, shared_max, draw.randint(1, 255), 32 * draw.randint(1, 32), shared))
        lines = "\n".join(f"{capability // 10} {capability % 10} {warps * 32} {shared_max} {registers} {threads} {shared}"
                          for _, capability, warps, shared_max, registers, threads, shared in cases)
        found = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout.split()
        for case, theirs in zip(cases, found, strict=True):
            card, _, _, _, registers, threads, shared = case
            self.assertEqual(occupancy.blocks(card, registers, threads, shared), int(theirs), f"{case}, seed {seed}")


if __name__ == "__main__":
    NVCC, CXX, CUDA_INCLUDE = sys.argv[1:4]
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
