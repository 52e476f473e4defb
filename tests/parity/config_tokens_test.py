#!/usr/bin/env python3
"""Tokens that only the configs beside a tokenizer.json name, against transformers, live: the same ids for a text that holds
them, or a refusal where the model's embedding ends before them.
Environment: LEMA (binary). Exits 77 (skipped) without transformers."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import tiny_folder

try:
    from transformers import AutoTokenizer
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)

TEXT = "a<|im_end|> b <x>[PAD]<bos>c"
DECODER = {"257": {"content": "<|im_end|>", "special": True}, "258": {"content": "<x>", "special": False}}
# tokenizer_config.json, special_tokens_map.json, added_tokens.json
FOLDERS = [
    ({}, None, None),
    ({"additional_special_tokens": ["<|im_end|>", "<x>"]}, None, None),
    ({"extra_special_tokens": ["<x>", "<|im_end|>"]}, None, None),
    ({"extra_special_tokens": {}, "additional_special_tokens": ["<x>"], "pad_token": "[PAD]"}, None, None),
    ({"extra_special_tokens": {"image_token": "<x>"}, "bos_token": "<bos>"}, None, None),
    ({"video_token": "<x>", "pad_token": "[PAD]", "bos_token": "<bos>"}, None, None),
    ({"pad_token": {"__type": "AddedToken", "content": "[PAD]", "lstrip": True, "normalized": False, "rstrip": False,
                    "single_word": False}}, None, None),
    ({"eos_token": "<|im_end|>"}, None, None),
    ({"pad_token": "b"}, None, None),
    ({"added_tokens_decoder": DECODER, "pad_token": "[PAD]"}, {"bos_token": "<bos>"}, {"<bos>": 259}),
    ({"extra_special_tokens": ["<x>"]}, {"pad_token": "[PAD]", "bos_token": "<bos>"}, None),
    ({}, {"additional_special_tokens": ["<x>", "[PAD]"]}, None),
    ({"pad_token": "[PAD]"}, None, {"<x>": 258, "<|im_end|>": 257, "[PAD]": 259}),
    ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "pad_token": "[PAD]"}, None, None),
]


def lema(folder, V):
    (folder / "config.json").write_text(json.dumps({"vocab_size": V}))
    return subprocess.run([os.environ["LEMA"], "tokenize", "--model", str(folder)], input=TEXT + "\n", capture_output=True,
                          text=True, timeout=60)


def main():
    failures = 0
    for config, special_map, added in FOLDERS:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", **config}
            for file, content in (("tokenizer.json", tiny_folder.byte_tokenizer(["<|endoftext|>"])), ("tokenizer_config.json", config),
                                  ("special_tokens_map.json", special_map), ("added_tokens.json", added)):
                if content is not None:
                    (folder / file).write_text(json.dumps(content))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            want, size = tokenizer.encode(TEXT, add_special_tokens=False), len(tokenizer)
            run = lema(folder, size)
            got = json.loads(run.stdout) if run.returncode == 0 else run.stderr
            if got != want:
                failures += 1
                print(f"DIFFERS: {config} {special_map} {added}\n  want {want}\n  got  {got}")
            short = lema(folder, size - 1)
            if short.returncode != 3 or f"the model's embedding has {size - 1} rows" not in short.stderr:
                failures += 1
                print(f"NOT REFUSED: {config}: {short.stderr}")
    print(f"{len(FOLDERS)} folders compared, {failures} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
