#!/usr/bin/env python3
"""Fails when a source file includes upward or sideways in the layer order of the design, or names a library outside
the folder that owns it. Run from anywhere; part of ctest."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = [["core"], ["text", "formats", "kernels"], ["layout"], ["model", "stream", "data"],
         ["train", "generate", "convert"], ["cli"]]
RANK = {folder: rank for rank, row in enumerate(ORDER) for folder in row}
OWNERS = [(re.compile(r"<nlohmann/"), ("src/formats/",)), (re.compile(r"<toml\+\+/"), ("src/formats/",)),
          (re.compile(r"<(cuda|cublas|nvrtc|nvml)"), ("kernels/cuda/", "tests/")),
          (re.compile(r"<CLI/"), ("src/cli/",)),
          (re.compile(r"<pcre2|<utf8proc"), ("src/text/", "src/generate/")), (re.compile(r"<openssl/"), ("src/core/",)),
          (re.compile(r"<spdlog/"), ("src/core/",)), (re.compile(r"<zlib"), ("src/formats/",))]


def layer_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "src" else parts[0]


def include_layer(target):
    head = target.split("/")[0]
    return head if head in RANK else "kernels" if (ROOT / "kernels" / target).exists() else None


def main():
    errors = []
    files = [p for d in ("src", "kernels") for p in (ROOT / d).rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    for path in sorted(files):
        layer = layer_of(path)
        name = str(path.relative_to(ROOT))
        if layer not in RANK:
            errors.append(f"{name}: folder {layer} is not a layer")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+(["<][^">]+[">])', line)
            if not match:
                continue
            target = match.group(1)
            for pattern, owners in OWNERS:
                if pattern.match(target) and not name.startswith(owners):
                    errors.append(f"{name}:{number}: {target} belongs to {', '.join(owners)}")
            if target.startswith('"'):
                if target.endswith(('.cpp"', '.cu"')):
                    errors.append(f"{name}:{number}: includes an implementation file {target}")
                other = include_layer(target.strip('"'))
                if other and other != layer and RANK[other] >= RANK[layer]:
                    errors.append(f"{name}:{number}: {layer} must not include {other} ({target})")
    print("\n".join(errors) or f"check_layers: {len(files)} files, includes point downward")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
