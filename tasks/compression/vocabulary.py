"""An encoder without the word pieces that its texts never use: at MiniLM's size half of all weights are word vectors.

What is dropped is spelled with smaller pieces: every single letter stays, so a word that was written before can still be
written. Texts in the letters of another script become [UNK], as they did.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tasks.domain.errors import InputRejected
from tasks.ranker.search.encoder import SentenceEncoder

WORD_PIECES = "WordPiece"
PREFIX = "##"


def with_vocabulary(encoder: SentenceEncoder, words: Iterable[Sequence[int]], most: int, folder: Path) -> int:
    """Write the encoder with its `most` commonest word pieces (and all letters) to `folder`; how many pieces it has.

    Args:
        words: token ids of the texts that count, items and queries.

    Raises:
        InputRejected: the tokenizer is not made of word pieces.
    """
    told = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    if told["model"]["type"] != WORD_PIECES:
        raise InputRejected(
            f"the encoder's tokenizer is {told['model']['type']}, not {WORD_PIECES}; take `vocabulary` out of the recipe"
        )
    kept = kept_pieces(told["model"]["vocab"], _special(told), words, most)
    number = {old: new for new, old in enumerate(kept)}
    told["model"]["vocab"] = {piece: number[at] for piece, at in told["model"]["vocab"].items() if at in number}
    for token in told["added_tokens"]:
        token["id"] = number[token["id"]]
    for token in told["post_processor"]["special_tokens"].values():
        token["ids"] = [number[at] for at in token["ids"]]
    encoder.save(folder)
    for path in folder.glob("*"):  # of the old vocabulary; the tokenizer is read from its own JSON
        if path.name in {"vocab.txt", "special_tokens_map.json"}:
            path.unlink()
    told["padding"] = told["truncation"] = None
    (folder / "tokenizer.json").write_text(json.dumps(told, ensure_ascii=False))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    # the class that reads tokenizer.json as it is, whatever class the encoder came with
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    _keep_rows(folder, kept, number)
    return len(kept)


def kept_pieces(
    vocabulary: dict[str, int], special: Iterable[int], words: Iterable[Sequence[int]], most: int
) -> list[int]:
    """Ids that stay, in their old order: the special ones, all letters, and the commonest until there are `most`."""
    counts = Counter(at for text in words for at in text)
    kept = {*special, *(at for piece, at in vocabulary.items() if len(piece.removeprefix(PREFIX)) == 1)}
    for at, _ in sorted(counts.items(), key=lambda told: (-told[1], told[0])):
        if len(kept) >= most:
            break
        kept.add(at)
    return sorted(kept)


def _special(told: dict[str, list[dict[str, int]]]) -> list[int]:
    return [token["id"] for token in told["added_tokens"]]


def _keep_rows(folder: Path, kept: Sequence[int], number: dict[int, int]) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("word_embeddings.weight"))
    state[name] = state[name][torch.tensor(kept)].contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    config |= {"vocab_size": len(kept), "pad_token_id": number[config["pad_token_id"]]}
    (folder / "config.json").write_text(json.dumps(config, sort_keys=True))
