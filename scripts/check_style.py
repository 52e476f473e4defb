#!/usr/bin/env python3
"""Fails on what style rules forbid and a script can see; prints sizes for review. Part of ctest."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BANNED_FOLDERS = {"utils", "util", "common", "helpers", "misc"}
# (what, pattern, files allowed to hold it)
TOKENS = [
    ("raw CUDA allocation", r"\bcuda(Malloc|Free|StreamCreate)\w*\(", r"^kernels/cuda/device\.cu$"),
    ("exit or abort outside main", r"(?<![\w.:>])_?(exit|abort)\s*\(", r"^src/cli/main\.cpp$"),
    ("printing outside cli and log", r"\bprintf\s*\(|std::c(out|err)\b", r"^src/(cli|core/log)|^tests/bench/"),
    ("manual memory", r"(?<![\w=])new [A-Za-z_:]+|\bdelete [a-z]|\b(malloc|free)\s*\(", r"^tests/support/failing_memory\.cpp$"),
    ("shared_ptr", r"\b(shared_ptr|make_shared)\b", r"^src/(core/log\.cpp|cli/cmd_)"),  # spdlog's sinks; CLI11 keeps what callbacks capture
    ("thread_local", r"\bthread_local\b", r"^kernels/cpu/"),
    ("using namespace in a header", r"^\s*using namespace", r"\.(cpp|cu)$"),
    ("assert in formats", r"\bassert\s*\(", r"^(?!src/formats)"),
    ("TODO without an issue", r"TODO(?!\(#\d+\))", r"^$"),
    ("direct Catch2 include", r"#include <catch2", r"^tests/support/catch\.h$"),
    ("history in a comment", r"//.*\b(no longer|used to|previously|hack|temporary fix)\b", r"^$"),
]


def main():
    errors, sizes = [], []
    files = [p for d in ("src", "kernels", "tests") for p in (ROOT / d).rglob("*")
             if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    for folder in ("src", "kernels", "tests", "scripts"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() and path.name in BANNED_FOLDERS:
                errors.append(f"{path.relative_to(ROOT)}: forbidden folder name")
    for path in sorted(files):
        name = str(path.relative_to(ROOT))
        lines = path.read_text().splitlines()
        sizes.append((len(lines), name))
        if not lines or not lines[0].startswith("//"):
            errors.append(f"{name}:1: a file opens with what it does")
        for number, line in enumerate(lines, 1):
            if len(line) > 120:
                errors.append(f"{name}:{number}: {len(line)} columns")
            code = re.sub(r'"(\\.|[^"\\])*"', '""', line)
            for what, pattern, allowed in TOKENS:
                target = line if what.startswith(("TODO", "history", "direct")) else code.split("//")[0]
                if re.search(pattern, target) and not re.search(allowed, name):
                    errors.append(f"{name}:{number}: {what}")
    sizes.sort(reverse=True)
    print("\n".join(errors) or "check_style: no findings")
    print("largest files:", ", ".join(f"{n} ({s})" for s, n in sizes[:5]))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
