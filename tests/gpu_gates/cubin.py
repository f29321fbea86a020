"""Reads the machine code of kernels: out of a cubin, or out of an object or library that nvcc has put cubins into.

A cubin is an ELF64 file. A kernel K has its code in .text.K (16 bytes per instruction on compute capability 7.0 and
above), its static shared memory in .nv.shared.K, its launch bounds in .nv.info.K, its registers and stack in .nv.info.
NVIDIA does not document the encoding; tests/gpu_gates/gates_test.py compiles kernels that hold each instruction named
here and fails where a compiler encodes it otherwise.
"""
import re
import struct
import subprocess

ELF_MAGIC = b"\x7fELF"
FATBIN_MAGIC = 0xBA55ED50
KIND_ELF = 2
SHARED_RESERVED = 1024
# Bits 0..8 of an instruction; bits 9..11 say where its operands come from.
OPCODES = {
    0x03C: "HMMA", 0x037: "IMMA", 0x1AE: "LDGSTS", 0x03B: "LDSM", 0x183: "LDL", 0x187: "STL", 0x181: "LDG",
    0x186: "STG", 0x180: "LD", 0x185: "ST", 0x026: "IDP", 0x02B: "DFMA", 0x029: "DADD", 0x028: "DMUL",
}
# Attributes of .nv.info sections.
MAX_THREADS, FRAME_SIZE, REGISTERS = 0x05, 0x11, 0x2F


class Unreadable(Exception):
    """The file holds no code that can be read, and why."""


class Kernel:
    """One kernel for one architecture. opcodes counts the instructions of OPCODES, and LDG128, STG128, LD128 and ST128
    those of 128 bits among them."""

    def __init__(self, name, arch):
        self.name, self.arch = name, arch
        self.registers = self.shared = self.stack = self.threads = self.code_bytes = 0
        self.opcodes = {}


class Elf:
    """Sections and symbols of an ELF64 file, little endian."""

    def __init__(self, image):
        self.image = image
        if image[:5] != ELF_MAGIC + b"\x02":
            raise Unreadable("no ELF64 file")
        self.flags = struct.unpack_from("<I", image, 48)[0]
        start, = struct.unpack_from("<Q", image, 40)
        size, count, names = struct.unpack_from("<HHH", image, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", image, start + i * size) for i in range(count)]
        self.sections = []  # (name, type, bytes, size)
        for header in headers:
            name = self._text(headers[names][4] + header[0])
            # A section without bytes in the file (NOBITS) still has a size.
            content = b"" if header[1] == 8 else image[header[4]:header[4] + header[5]]
            self.sections.append((name, header[1], content, header[5]))

    def _text(self, at):
        return self.image[at:self.image.index(b"\0", at)].decode()

    def section(self, name):
        for found in self.sections:
            if found[0] == name:
                return found[2]
        return b""

    def symbols(self):
        names = self.section(".strtab")
        table = self.section(".symtab")
        found = []
        for at in range(0, len(table), 24):
            name, = struct.unpack_from("<I", table, at)
            found.append(names[name:names.index(b"\0", name)].decode())
        return found


def attributes(content):
    """(attribute, value) of a .nv.info section."""
    at = 0
    while at + 4 <= len(content):
        form, attribute, short = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == 4:  # the short is the size of what follows
            yield attribute, content[at:at + short]
            at += short
        else:
            yield attribute, struct.pack("<H", short)


def count_opcodes(code):
    counts = {}
    for low, high in struct.iter_unpack("<QQ", code):
        name = OPCODES.get(low & 0x1FF)
        if name is None:
            continue
        counts[name] = counts.get(name, 0) + 1
        if name in ("LDG", "STG", "LD", "ST") and (high >> 9) & 7 == 6:  # bits 73..75: 4, 5, 6 = 32, 64, 128 bits
            counts[name + "128"] = counts.get(name + "128", 0) + 1
    return counts


def read_cubin(image):
    """The kernels of a cubin."""
    elf = Elf(image)
    # The eighth byte of the file is the version of the flags' layout.
    arch = elf.flags >> 8 & 0xFF if image[8] >= 8 else elf.flags & 0xFF
    kernels = {}
    for name, _, content, _ in elf.sections:
        if name.startswith(".text."):
            kernel = Kernel(name[len(".text."):], arch)
            kernel.code_bytes = len(content)
            kernel.opcodes = count_opcodes(content)
            kernels[kernel.name] = kernel
    symbols = elf.symbols()
    for attribute, value in attributes(elf.section(".nv.info")):
        if attribute in (REGISTERS, FRAME_SIZE):
            symbol, number = struct.unpack("<II", value)
            kernel = kernels.get(symbols[symbol])
            if kernel and attribute == REGISTERS:
                kernel.registers = number
            elif kernel:
                kernel.stack = number
    for name, _, content, size in elf.sections:
        kernel = kernels.get(name.partition(".nv.info.")[2])
        if kernel:
            for attribute, value in attributes(content):
                if attribute == MAX_THREADS:
                    x, y, z = struct.unpack("<III", value)
                    kernel.threads = x * y * z
        kernel = kernels.get(name.partition(".nv.shared.")[2])
        if kernel:  # from 9.0 on with what the system keeps of each block
            kernel.shared = size if arch < 90 else max(size - SHARED_RESERVED, 0)
    return list(kernels.values())


def read_fatbins(content):
    """The cubins of a .nv_fatbin section: containers, each of entries for one architecture."""
    at = 0
    while at + 16 <= len(content):
        magic, _, header_size, size = struct.unpack_from("<IHHQ", content, at)
        if magic != FATBIN_MAGIC:
            at += 8  # between containers
            continue
        entry = at + header_size
        end = entry + size
        while entry < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", content, entry)
            payload = content[entry + entry_header:entry + entry_header + entry_size]
            if kind == KIND_ELF:
                if payload[:4] != ELF_MAGIC:
                    raise Unreadable("its code is compressed: compile with --no-compress")
                yield payload
            entry += entry_header + entry_size
        at = end


def read_file(path):
    """Every kernel of a cubin, an object or a library."""
    with open(path, "rb") as file:
        image = file.read()
    elf = Elf(image)
    machine, = struct.unpack_from("<H", image, 18)
    if machine == 190:  # EM_CUDA
        return read_cubin(image)
    content = elf.section(".nv_fatbin")
    if not content:
        raise Unreadable("it has no code for a card")
    return [kernel for cubin in read_fatbins(content) for kernel in read_cubin(cubin)]


def compiler_of(path):
    """The version of ptxas that made the code of a file: "13.0.88"; "" where it does not say."""
    with open(path, "rb") as file:
        found = re.search(rb"Cuda compilation tools, release [0-9.]+, V([0-9.]+)", file.read())
    return found.group(1).decode() if found else ""


def plain_names(kernels):
    """Sets kernel.plain: "file/function<arguments>", which does not change with the compiler's hashes."""
    text = "\n".join(kernel.name for kernel in kernels)
    lines = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    for kernel, line in zip(kernels, lines):
        unit = re.search(r"_GLOBAL__N__[0-9a-f]{8}_\d+_(\w+?)_cu_[0-9a-f]{8}", kernel.name)
        depth, end = 0, len(line)  # the parameters begin at the first bracket outside of < >
        shown = line.replace("(anonymous namespace)", "{}")
        for i, letter in enumerate(shown):
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0:
                end = i
                break
        shown = re.sub(r"^void ", "", shown[:end])
        shown = re.sub(r"(?:[\w{}]+::)+", "", shown)
        shown = re.sub(r"\([\w ]+\)(?=-?\d)", "", shown)  # the types of arguments that are numbers
        kernel.plain = (unit.group(1) + "/" if unit else "") + shown.replace("> >", ">>")
