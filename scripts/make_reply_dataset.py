#!/usr/bin/env python3
"""Writes the data set that teaches the strict reply format: train.jsonl, heldout.jsonl and recall.jsonl.

The hand-written facts lie in reply_facts/CATEGORY.txt; arithmetic with seeded numbers joins the math category.
Held-out questions are never trained: they measure the format. Recall questions are trained: they measure the facts.
Everything is checked before anything is written. Standard library only; quickstart.sh calls it.
"""
import argparse
import collections
import json
import pathlib
import re
import sys
from random import Random
from typing import NamedTuple

SYSTEM = "You are a precise assistant trained using LEMA."
REPLY = "[LEMA_REPLY]\nAnswer: {}\nExplanation: {}\nConfidence: {}\n[/LEMA_REPLY]"
STRICT = re.compile(r"\A\[LEMA_REPLY\]\nAnswer: .+\nExplanation: .+\nConfidence: (High|Medium|Low)\n"
                    r"\[/LEMA_REPLY\]\s*\Z")
CONFIDENCE = {"H": "High", "M": "Medium", "L": "Low"}
SHARES = {"science": 15, "history": 15, "geography": 10, "math": 10, "technology": 10, "general": 15, "lema": 10,
          "practical": 15}  # percent of --examples; the first category also takes the rounding remainder
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
DIGITS = [str(number) for number in range(len(NUMBERS))]  # a recalled fact may say 8 or eight
HELD_OUT_EACH, RECALL_EACH = 11, 5  # questions per category
FACT_FOLDER = pathlib.Path(__file__).resolve().parent / "reply_facts"


class Fact(NamedTuple):
    category: str
    question: str
    answer: str
    explanation: str
    confidence: str  # High, Medium or Low
    key: str = ""  # the words of the answer that show it is right; "" = not used for recall
    arithmetic: bool = False

    def reply(self):
        return REPLY.format(self.answer, self.explanation, self.confidence)

    def match(self):
        """A regular expression, the same in PCRE and Python, that a right answer contains."""
        pattern = re.sub(r"[.+]", r"\\\g<0>", self.key)
        pattern = re.sub(r"[ -]", "[ -]", pattern).replace(",", ",?")
        if pattern in NUMBERS + DIGITS:
            at = (NUMBERS + DIGITS).index(pattern) % len(NUMBERS)
            pattern = f"(?:{NUMBERS[at]}|{DIGITS[at]})"
        return r"(?i)\b" + pattern + (r"\b" if self.key[-1].isalnum() else "")


class BadFacts(Exception):
    """The facts or the rows made of them break a rule of the data set; the message says which and where."""


def read_facts(category):
    path = FACT_FOLDER / f"{category}.txt"
    lines = [(number, line) for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
             if line and not line.startswith("#")]
    facts = []
    for at in range(0, len(lines), 3):
        record = [line for _, line in lines[at:at + 3]]
        if len(record) < 3 or not re.match("[HML] ", record[0]):
            raise BadFacts(f"{path.name}:{lines[at][0]}: expected 'H|M|L question', then an answer and an explanation")
        key = re.search(r"\*(.+?)\*", record[1])
        facts.append(Fact(category, record[0][2:], record[1].replace("*", ""), record[2], CONFIDENCE[record[0][0]],
                          key.group(1) if key else ""))
    return facts


def below(rng, count):
    """A uniform integer in [0, count). Of all draws only random() is promised to be the same in every Python."""
    return int(rng.random() * count)


def shuffle(rng, items):
    """Fisher-Yates, in place."""
    for last in range(len(items) - 1, 0, -1):
        other = below(rng, last + 1)
        items[last], items[other] = items[other], items[last]


def arithmetic_texts(rng):
    """One question, answer and explanation of each template, with drawn numbers."""
    def between(low, high):
        return low + below(rng, high - low + 1)

    a, b = between(12, 89), between(12, 89)
    yield f"What is {a} plus {b}?", f"{a} plus {b} equals {a + b}.", f"Taking {b} from {a + b} gives {a} again."
    a, b = between(60, 99), between(11, 59)
    yield f"What is {a} minus {b}?", f"{a} minus {b} equals {a - b}.", f"Adding {b} to {a - b} gives {a} again."
    a, b = between(12, 29), between(3, 9)
    yield f"What is {a} times {b}?", f"{a} times {b} equals {a * b}.", f"Dividing {a * b} by {b} gives {a} again."
    a, b = between(12, 29), between(3, 9)
    yield (f"What is {a * b} divided by {b}?", f"{a * b} divided by {b} equals {a}.",
           f"Multiplying {a} by {b} gives {a * b} again.")
    a = between(11, 30)
    yield (f"What is the square of {a}?", f"The square of {a} is {a * a}.",
           f"It is the product of {a} and {a}.")
    a, b = 5 * between(1, 15), 100 * between(2, 9)
    yield (f"What is {a} percent of {b}?", f"{a} percent of {b} is {a * b // 100}.",
           f"One percent is {b // 100}, and {a} times {b // 100} is {a * b // 100}.")
    a, b = between(40, 99), between(6, 9)
    yield (f"What is the remainder of {a} divided by {b}?", f"{a} divided by {b} leaves the remainder {a % b}.",
           f"{b} times {a // b} is {a // b * b}, which is {a % b} away from {a}.")


def arithmetic_facts(rng, count=14):
    facts = {}  # by question: numbers drawn twice make one fact
    while len(facts) < count:
        for texts in arithmetic_texts(rng):
            if len(facts) < count:
                facts.setdefault(texts[0], Fact("math", *texts, "High", arithmetic=True))
    return list(facts.values())


def split(facts, rng):
    """Draws HELD_OUT_EACH facts evenly spaced in a shuffle ordered by confidence: each confidence gets its share."""
    facts = list(facts)
    shuffle(rng, facts)
    facts.sort(key=lambda fact: fact.confidence)
    drawn = {(2 * i + 1) * len(facts) // (2 * HELD_OUT_EACH) for i in range(HELD_OUT_EACH)}
    return ([fact for i, fact in enumerate(facts) if i not in drawn],
            [fact for i, fact in enumerate(facts) if i in drawn])


def training_order(train, examples, shares, rng):
    """Each fact once, or `examples` rows: every category cycled in order up to its share; shuffled."""
    rows = [fact for facts in train.values() for fact in facts]
    if examples:
        counts = {category: examples * share // 100 for category, share in shares.items()}
        counts[next(iter(counts))] += examples - sum(counts.values())
        rows = [train[category][i % len(train[category])] for category, n in counts.items() for i in range(n)]
    shuffle(rng, rows)
    return rows


def choose_recall(train, rng):
    chosen = []
    for facts in train.values():
        facts = [fact for fact in facts if fact.key and fact.confidence == "High"]
        shuffle(rng, facts)
        chosen += facts[:RECALL_EACH]
    return chosen


def require(holds, message):
    if not holds:
        raise BadFacts(message)


def check_facts(facts):
    """The rules for the collection of facts and for each of them."""
    count = len(facts)
    levels = collections.Counter(fact.confidence for fact in facts)
    require(count >= 330, f"{count} facts, need 330")
    for category, n in collections.Counter(fact.category for fact in facts).items():
        require(n >= 35, f"category {category} has {n} facts, needs 35")
    require(levels["Medium"] >= 0.10 * count, f"{levels['Medium']} of {count} facts are Medium, need 10 %")
    require(levels["Low"] >= 0.08 * count, f"{levels['Low']} of {count} facts are Low, need 8 %")
    numeric = sum(fact.arithmetic for fact in facts)
    require(numeric <= 0.15 * count, f"{numeric} of {count} facts are arithmetic, at most 15 % may be")
    for what in ("question", "answer", "explanation"):
        text, uses = collections.Counter(getattr(fact, what).casefold() for fact in facts).most_common(1)[0]
        require(uses == 1, f"the same {what} occurs {uses} times: {text!r}")
    for fact in facts:
        where = f"{fact.category}: {fact.question!r}: "
        require(STRICT.match(fact.reply()), where + "the reply breaks the strict format")
        require("[LEMA_REPLY]" not in SYSTEM + fact.question, where + "the prompt holds the opening tag")
        require(fact.question[-1] == "?", where + "a question ends with a question mark")
        require(3 <= len(fact.answer.split()) <= 20, where + "an answer has 3 to 20 words")
        require(6 <= len(fact.explanation.split()) <= 22, where + "an explanation has 6 to 22 words")
        if fact.key:
            require(re.fullmatch(r"[A-Za-z0-9 .,+-]+", fact.key) and fact.key[0].isalnum(),
                    where + f"the key {fact.key!r} must be plain letters, digits, spaces and .,+-")
            require(re.search(fact.match(), fact.answer), where + "the answer lacks its key")
            require(not re.search(fact.match(), fact.question), where + "the question gives the key away")


def check_split(train_rows, train, held_out, recall):
    trained = {fact for facts in train.values() for fact in facts}
    require(not trained & set(held_out), "a held-out fact is also trained")
    require(len(held_out) == HELD_OUT_EACH * len(SHARES), f"{len(held_out)} held-out questions")
    require(len(recall) == RECALL_EACH * len(SHARES), f"{len(recall)} recall questions; mark more answers with stars")
    require(trained.issuperset(recall) and trained.issuperset(train_rows), "a row does not come from the trained facts")
    for name, rows in (("training rows", train_rows), ("held-out questions", held_out)):
        missing = set(CONFIDENCE.values()) - {fact.confidence for fact in rows}
        require(not missing, f"the {name} lack the confidence {', '.join(sorted(missing))}")


def prompt(fact):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": fact.question}]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def summary(train_rows, held_out, recall, facts):
    columns = [collections.Counter(fact.category for fact in rows) for rows in (facts, train_rows, held_out, recall)]
    yield "category".ljust(12) + "".join(name.rjust(9) for name in ("facts", "train", "heldout", "recall"))
    for category in list(SHARES):
        yield category.ljust(12) + "".join(str(column[category]).rjust(9) for column in columns)
    yield "all".ljust(12) + "".join(str(sum(column.values())).rjust(9) for column in columns)
    for level in CONFIDENCE.values():
        counts = [sum(fact.confidence == level for fact in rows) for rows in (facts, train_rows, held_out, recall)]
        yield level.ljust(12) + "".join(str(n).rjust(9) for n in counts)
    yield f"arithmetic facts: {sum(fact.arithmetic for fact in facts)} of {len(facts)}"
    yield (f"mean characters: question {sum(len(f.question) for f in train_rows) / len(train_rows):.1f}, "
           f"reply {sum(len(f.reply()) for f in train_rows) / len(train_rows):.1f}")


def parse_shares(text):
    shares = {}
    for item in text.split(","):
        name, equals, percent = item.partition("=")
        if name not in SHARES or name in shares or not equals or not re.fullmatch("[0-9]+", percent):
            raise argparse.ArgumentTypeError(f"{item!r}: expected CATEGORY=PERCENT, each of {', '.join(SHARES)} "
                                             "at most once")
        shares[name] = int(percent)
    if sum(shares.values()) != 100:
        raise argparse.ArgumentTypeError(f"the shares add up to {sum(shares.values())}, not to 100")
    return shares


def positive(text):
    if not re.fullmatch("[0-9]+", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Write the data set of the strict reply format.")
    parser.add_argument("--output", metavar="DIR", required=True, type=pathlib.Path,
                        help="folder for train.jsonl, heldout.jsonl and recall.jsonl; made if missing")
    parser.add_argument("--examples", metavar="N", type=positive,
                        help="training rows, facts repeated by category share; default: each training fact once")
    parser.add_argument("--shares", metavar="CATEGORY=PERCENT,...", type=parse_shares,
                        help="shares of --examples, adding up to 100, categories left out get none; the first takes "
                             "the rounding remainder; default: " + ",".join(f"{k}={v}" for k, v in SHARES.items()))
    parser.add_argument("--seed", type=int, default=42, help="chooses numbers, split and order (default 42)")
    options = parser.parse_args()
    if options.shares and not options.examples:
        parser.error("--shares needs --examples")
    return options


def main():
    options = parse_arguments()
    rng = Random(options.seed)
    facts = {category: read_facts(category) for category in SHARES}
    facts["math"] += arithmetic_facts(rng)
    all_facts = [fact for group in facts.values() for fact in group]
    check_facts(all_facts)
    train, held_out = {}, []
    for category, group in facts.items():
        train[category], held = split(group, rng)
        held_out += held
    shuffle(rng, held_out)
    recall = choose_recall(train, rng)
    train_rows = training_order(train, options.examples, options.shares or SHARES, rng)
    check_split(train_rows, train, held_out, recall)

    options.output.mkdir(parents=True, exist_ok=True)
    write_jsonl(options.output / "train.jsonl", (
        {"messages": prompt(fact) + [{"role": "assistant", "content": fact.reply()}]} for fact in train_rows))
    write_jsonl(options.output / "heldout.jsonl", (
        {"messages": prompt(fact), "category": fact.category, "reference": fact.answer} for fact in held_out))
    write_jsonl(options.output / "recall.jsonl", (
        {"messages": prompt(fact), "match": fact.match(), "category": fact.category} for fact in recall))
    print("\n".join(summary(train_rows, held_out, recall, all_facts)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BadFacts, OSError) as error:
        sys.exit(f"make_reply_dataset: {error}")
