"""Writes the texts that bench_tokenizer reads: tokenizer_corpus.py FOLDER [SITE_PACKAGES].

natural.txt, 2.4 MB, what users train on: English (Python's language reference and the descriptions of installed packages)
45 %, code (Python's own library) 35 %, Chinese, Japanese and Korean 15 %, Russian, German and Persian 5 % (the message
catalogues of installed programs). hard.txt, 1 MB: the lines of the parity tests, of which half are markup, runs of
white space, emoji, random characters and random bytes. None of it is committed; which packages are installed changes
figures by a few per cent.
"""
import gettext
import pathlib
import pydoc_data.topics
import random
import sys
import sysconfig

sys.path += [str(pathlib.Path(__file__).parent.parent / folder) for folder in ("parity", "support")]
import tokenizer_test

LOCALES = pathlib.Path("/usr/share/locale")


def english(site):
    yield from pydoc_data.topics.topics.values()
    for path in sorted(site.glob("*.dist-info/METADATA")):
        _, _, description = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")
        yield description


def code():
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def messages(*languages):
    for language in languages:
        for path in sorted((LOCALES / language / "LC_MESSAGES").glob("*.mo")):
            try:
                with path.open("rb") as file:
                    catalogue = gettext.GNUTranslations(file)._catalog
            except UnicodeDecodeError:  # a header in Latin-1
                continue
            yield "\n".join(text for key, text in catalogue.items() if key)


def take(texts, size):
    """`size` bytes, from every text a like share."""
    texts = [text.encode() for text in texts]
    share = size / max(1, sum(map(len, texts)))
    if share > 1:
        raise SystemExit(f"found {int(size / share)} bytes of {size}")
    return b"\n".join(text[:int(len(text) * share)] for text in texts).decode("utf-8", "ignore")


def main():
    folder = pathlib.Path(sys.argv[1])
    site = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else sysconfig.get_path("purelib"))
    parts = [take(english(site), 1_080_000), take(code(), 840_000)]
    parts += [take(messages(language), 120_000) for language in ("zh_CN", "ja", "ko")]
    parts += [take(messages("ru"), 64_000), take(messages("de"), 32_000), take(messages("fa"), 24_000)]
    (folder / "natural.txt").write_text("\n".join(parts), encoding="utf-8", newline="")
    rng, lines, size = random.Random(20261121), [], 0
    while size < 1_000_000:
        lines.append(tokenizer_test.line(rng))
        size += len(lines[-1].encode()) + 1
    (folder / "hard.txt").write_text("\n".join(lines), encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
