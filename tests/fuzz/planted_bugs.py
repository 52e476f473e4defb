"""Plants bugs in a copy of the parsers, one at a time, and shows that the malformed inputs, the seeds or a short fuzz run find
each. By hand, from the checkout: python3 tests/fuzz/planted_bugs.py FOLDER [SECONDS [NAMES...]]. The copy and its build go to
FOLDER; the last line says how many were found."""
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Name, file, what stands there, what is planted, fuzz target, test of malformed inputs.
BUGS = [
    ("header length unchecked", "src/formats/safetensors.cpp", "if (length > kMaxHeaderBytes)",
     "if (length > ~uint64_t{0} - 1)", "safetensors", "safetensors"),
    ("header longer than the file by 8", "src/formats/safetensors.cpp", "if (header_bytes > size - kLengthBytes)",
     "if (header_bytes > size)", "safetensors", "safetensors"),
    ("a product of sizes wraps", "src/formats/safetensors.cpp", "total = checked_multiply(total, shape[i]);",
     "total = static_cast<int64_t>(static_cast<uint64_t>(*total) * static_cast<uint64_t>(shape[i]));",
     "safetensors", "safetensors"),
    ("tensors may overlap by a byte", "src/formats/safetensors.cpp", "if (t.offset < end)", "if (t.offset < end - 1)",
     "safetensors", "safetensors"),
    ("trailing bytes pass", "src/formats/safetensors.cpp", "if (end != data_bytes)", "if (end > data_bytes)", "safetensors",
     "safetensors"),
    ("a rank of 9", "src/formats/safetensors.cpp", "if (shape.as_array().size() > Shape::kMaxRank)",
     "if (shape.as_array().size() > Shape::kMaxRank + 1)", "safetensors", "safetensors"),
    ("negative sizes", "src/formats/safetensors.cpp", "if (value.as_int() < 0) refuse", "if (value.as_int() < -8) refuse",
     "safetensors", "safetensors"),
    ("nested one deeper", "src/formats/json.cpp", "if (static_cast<int>(stack_.size()) >= limits_.max_depth)",
     "if (static_cast<int>(stack_.size()) > limits_.max_depth)", "data_rows", "json"),
    ("a duplicate key with a twin in its first bytes passes", "src/formats/json.cpp",
     "if (order_[i].first_bytes != order_[i - 1].first_bytes) continue;",
     "if (order_[i].first_bytes == order_[i - 1].first_bytes) continue;", "model_config", "json"),
    ("text after a NUL is lost", "src/formats/json.cpp", "if (const size_t nul = text_.find('\\0'); nul != text_.npos)",
     "if (const size_t nul = text_.find('\\0'); nul == 0)", "data_rows", "json"),
    ("doubles lose digits", "src/formats/json.cpp", "if (exponent < -4 || exponent >= 16) {",
     "if (exponent < -4 || exponent >= 16) {\n    out += std::to_string(x);\n    return;", "model_config", "json"),
    ("paths with ..", "src/formats/confined_path.cpp", 'if (part.empty() || part == "." || part == "..") return {};',
     'if (part.empty() || part == ".") return {};', "model_index", "model_index"),
    ("links are followed", "src/formats/confined_path.cpp", "const fs::file_type type = fs::symlink_status(path, error).type();",
     "const fs::file_type type = fs::status(path, error).type();", "model_index", "model_index"),
    ("links to any blob", "src/formats/confined_path.cpp",
     "return target.starts_with(front) && is_hex(std::string_view(target).substr(front.size())) &&",
     "return target.starts_with(front) && (true || is_hex(target)) &&", "model_index", "model_index"),
    ("an id equal to the vocabulary's size", "src/formats/hf_config.cpp", "const bool outside = id < 0 || id >= V;",
     "const bool outside = id < 0 || id > V;", "model_config", "model_config"),
    ("rotated columns beyond the head", "src/formats/hf_rope.cpp", "if (dim < 1 || dim > D)", "if (dim < 1)", "model_config",
     "model_config"),
    ("a string longer than the file", "src/formats/gguf.cpp", "if (length > remaining())", "if (length > remaining() + 1000)",
     "gguf", "gguf"),
    ("a count times size wraps", "src/formats/gguf.cpp",
     "const int64_t fit = (reader_.remaining() - 8) / kMinValueBytes[static_cast<size_t>(kind)];",
     "const int64_t fit = kMaxArrayElements;", "gguf", "gguf"),
    ("an element type beyond the table", "src/formats/gguf.cpp", "if (id >= kMinValueBytes.size())",
     "if (id > kMinValueBytes.size())", "gguf", "gguf"),
    ("five dimensions", "src/formats/gguf.cpp", "if (rank < 1 || rank > kMaxDims)", "if (rank < 1 || rank > kMaxDims + 1)",
     "gguf", "gguf"),
    ("a tensor beyond the file", "src/formats/gguf.cpp", "if (!end || *end > file_bytes)",
     "if (!end || *begin > file_bytes)", "gguf", "gguf"),
    ("an alignment of 0", "src/formats/gguf.cpp",
     "if (bytes < 1 || bytes > kMaxAlignment || !std::has_single_bit(static_cast<uint64_t>(bytes)))",
     "if (bytes > kMaxAlignment)", "gguf", "gguf"),
    ("a field one byte beyond its message", "src/formats/protobuf.cpp", "if (size > rest_.size()) malformed",
     "if (size > rest_.size() + 1) malformed", "tokenizer_model", "tokenizer"),
    ("a varint of 11 bytes", "src/formats/protobuf.cpp", "shift < 64; shift += 7", "shift < 77; shift += 7",
     "tokenizer_model", "tokenizer"),
    ("a character map read past its end", "src/text/charsmap.cpp", "trie_bytes > map.size() - 4)",
     "trie_bytes > map.size())", "tokenizer_model", "tokenizer"),
    ("merges of unknown tokens", "src/text/bpe_load.cpp", "      if (!found)\n        fail", "      if (false)\n        fail",
     "tokenizer_json", "tokenizer"),
    ("an id that no token has in the post-processor", "src/text/vocabulary.h", "if (id < 0 || id >= limit()) return std::nullopt;",
     "if (id < 0 || id > limit()) return std::nullopt;", "tokenizer_json", "tokenizer"),
    ("division by zero", "src/text/jinja_ops.cpp",
     "bool overflow = false;\n  const bool divides = op == Op::Div || op == Op::FloorDiv || op == Op::Mod;",
     "bool overflow = false;\n  const bool divides = op == Op::Div || op == Op::FloorDiv;", "chat_template",
     "chat_template"),
    ("a slice of step 0", "src/text/jinja_subscript.cpp", 'if (by == 0) rt.error("slice step cannot be zero");', "",
     "chat_template", "chat_template"),
    ("a slice past the end", "src/text/jinja_subscript.cpp", "std::clamp<int64_t>(i, 0, count)",
     "std::clamp<int64_t>(i, 0, count + 1)", "chat_template", "chat_template"),
    ("macros without end", "src/text/jinja_expr.cpp", "if (++macro_depth_ > kMaxMacroDepth)",
     "if (++macro_depth_ > 1000 * kMaxMacroDepth)", "chat_template", "chat_template"),
    ("dots without end", "src/formats/toml.cpp", "  check_dots(text, source);\n",
     "  if (text.empty()) check_dots(text, source);\n", "run_config_toml", "toml"),
    ("infinity passes", "src/formats/toml.cpp", "if (!std::isfinite(x)) refuse", "if (std::isnan(x)) refuse",
     "run_config_toml", "toml"),
    ("a byte past the piece", "src/data/record_reader.cpp", "if (at_ < piece_.size()) return false;",
     "if (at_ <= piece_.size()) return false;", "data_rows", "data_rows"),
    ("CSV fields without end", "src/data/record_reader.cpp", "if (fields.size() == kMaxFields)", "if (fields.empty())",
     "data_rows", "data_rows"),
    ("a checksum of 7 digits", "src/formats/manifest.cpp", " || hex.size() != 8)", ")", "manifest", "manifest"),
    ("files beyond the manifest", "src/formats/manifest.cpp", "if (!present.empty())", "if (present.size() > 1)", "manifest",
     "manifest"),
    ("a dropout of 1", "src/formats/peft_config.cpp", "if (config.dropout == 1)", "if (config.dropout > 1)", "adapter_config",
     ""),
    ("names printed as they are", "src/formats/json_fields.h", 'fmt::format("{}:{}: {}", source_, value->line, escaped(key))',
     'fmt::format("{}:{}: {}", source_, value->line, key)', "adapter_config", ""),
]


class Copy:
    def __init__(self, folder):
        self.source, self.build = folder / "lema", folder / "fz"
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(ROOT, self.source, ignore=shutil.ignore_patterns(".git", "build*", ".venv*"),
                        copy_function=shutil.copy)  # younger than what an interrupted call compiled
        self.run("cmake", "-S", self.source, "-B", self.build, "-G", "Ninja", "-DLEMA_CUDA=OFF", "-DLEMA_FUZZ=ON",
                 "-DCMAKE_UNITY_BUILD=OFF", "-DCMAKE_C_COMPILER=clang-16",
                 "-DCMAKE_CXX_COMPILER=clang++-16", "-DLEMA_SANITIZE=address,undefined,float-cast-overflow",
                 *(["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []))

    def run(self, *command):
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)

    def make(self, *targets):
        self.run("cmake", "--build", self.build, "-j", 2, "--target", *targets)

    def fails(self, *command, timeout=600):
        try:
            return subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  timeout=timeout).returncode != 0
        except subprocess.TimeoutExpired:
            return True

    def found_by(self, target, test, seconds):
        """Which of the three finds a fault in what is built, "" when none does."""
        fuzz = self.source / "tests" / "fuzz" / "fuzz.sh"
        binary = self.build / "tests" / f"fuzz_{target}"
        if test and self.fails(self.build / "tests" / f"malformed_{test}_test", "~[clock]", timeout=120):
            return "a malformed input"
        if self.fails(fuzz, binary, target, 0, "-runs=0"):
            return "a seed"
        if seconds and self.fails(fuzz, binary, target, seconds):
            return "fuzzing"
        return ""


def targets_of(target, test):
    return [f"fuzz_{target}", *([f"malformed_{test}_test"] if test else [])]


def main():
    folder, seconds = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    wanted = [bug for bug in BUGS if not sys.argv[3:] or bug[0] in sys.argv[3:]]
    copy = Copy(folder)
    copy.make(*{t for bug in wanted for t in targets_of(*bug[4:])})
    for target, test in sorted({bug[4:] for bug in wanted}):
        reason = copy.found_by(target, test, 1)
        if reason:
            sys.exit(f"{target}, {test}: without a planted bug {reason} fails")
    found = 0
    for name, file, old, new, target, test in wanted:
        path, began = copy.source / file, time.monotonic()
        text = path.read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: {file} has this {text.count(old)} times: {old}")
        path.write_text(text.replace(old, new))
        try:
            copy.make(*targets_of(target, test))
            by = copy.found_by(target, test, seconds)
        finally:
            path.write_text(text)
        found += by != ""
        print(f"{name}: {'found by ' + by if by else 'NOT FOUND'} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{found} of {len(wanted)} planted bugs found")


if __name__ == "__main__":
    main()
