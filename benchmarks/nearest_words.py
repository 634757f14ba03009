"""Make the table of words that the shipped weights do not know, with the known words nearest in meaning; or check it.

    make words
    python benchmarks/nearest_words.py make --wordnet /usr/share/wordnet
    python benchmarks/nearest_words.py check

`make` needs both models of `make words`, and WordNet 3.0 (Debian's wordnet-base). Words are the nouns of WordNet that
are whole in the vocabulary of either model, or in WordNet's tagged texts. What kind of thing a word is comes from
WordNet; which known word of that kind is nearest, from MiniLM's vectors of descriptions. `check` compares the table
with what one of the authors chose, without having seen it, among the three nearest known words in alphabetical order
(nearest_words.json): for 100 nouns at random, and for nouns in the titles of real picture books.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import torch
from common import ROOT
from torch import Tensor, nn
from transformers import AutoModel
from wordnet import Sense, WordNet

from modules.commands.cli import execute
from modules.common.arguments import Parser, a_path
from modules.common.errors import UserError
from modules.common.progress import track
from modules.common.shipped import WEIGHTS
from modules.evaluation.metrics.statistics import bootstrap_mean
from modules.presets import MINILM, SMOLLM2
from modules.pretrained.source import PretrainedSource
from modules.saving.model_folder import write_model_sums
from modules.storyworld.labels import COLORS
from modules.text_decoder.nearest_words import Near, load_nearest_words, save_nearest_words
from modules.text_decoder.tokenizers import StoryTokenizer
from modules.text_decoder.words import KnownWords

CHOICES = Path(__file__).with_name("nearest_words.json")
NUM_NEAREST, LEAST_COSINE = 2, 0.3  # Every person is read as a girl or a boy, whatever the cosine.
NUM_FUNCTION_WORDS = 150  # The most frequent words of MiniLM's vocabulary are not what a story is about.
DESCRIPTIONS = {
    "character": {
        "girl": "girl, child; a young female person",
        "boy": "boy, child; a young male person",
        "fox": "fox, canine; a clever wild animal like a small wolf, with a bushy tail",
        "rabbit": "rabbit, bunny, hare; a small animal with long ears that hops",
        "bear": "bear, carnivore; a large heavy animal with thick fur",
        "frog": "frog, toad, amphibian; a small green animal that jumps and lives near water",
        "cat": "cat, kitten, feline; a small animal that is kept as a pet",
        "pig": "pig, swine; a plump farm animal",
        "penguin": "penguin, bird; a bird that swims and lives in the cold",
        "elephant": "elephant; a huge grey animal with a trunk",
    },
    "place": {
        "beach": "beach, seaside, shore; sand beside the sea",
        "forest": "forest, wood, jungle; land covered with trees",
        "farm": "farm, countryside; fields and barns where animals and crops are kept",
        "city": "city, town, street; many houses, shops and people",
        "castle": "castle, palace; a large old stately building",
        "mountains": "mountain, hill; high steep land",
        "kitchen": "kitchen, room; a room of a house, where food is cooked",
        "moon": "moon, planet, outer space; a celestial body in space",
    },
    "object": {
        "ball": "ball, toy; a round toy that is thrown or kicked",
        "kite": "kite, toy; a toy that flies in the wind on a string",
        "balloon": "balloon; a light bag filled with gas that floats in the air",
        "apple": "apple, fruit; a sweet round fruit",
        "cake": "cake, pastry, bread; a sweet baked food",
        "crown": "crown, jewelry, headdress; a golden ornament on the head of a king",
        "book": "book, paper, writing; printed pages to read",
        "flower": "flower, plant; the blossom of a plant",
        "star": "star, light; a bright shining light in the night sky",
        "drum": "drum, musical instrument; an instrument to make music with",
        "carrot": "carrot, vegetable; an orange root vegetable",
        "robot": "robot, machine; a machine that moves and works",
    },
    "colour": {color: f"{color}; the colour {color}" for color in COLORS},
}
DESCRIPTIONS["person"] = {name: DESCRIPTIONS["character"][name] for name in ("girl", "boy")}


class Sentences:
    """MiniLM's vectors of sentences: mean pooling, normalised."""

    def __init__(self) -> None:
        source = PretrainedSource(MINILM, "storyboard.text_encoder.source", offline=True)
        self.model, self.tokenizer = source.load(AutoModel).eval(), source.tokenizer

    @torch.inference_mode()
    def vectors(self, texts: list[str], batch_size: int = 64) -> Tensor:
        """Return (N,d)."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # Alike in length: little padding.
        vectors = torch.empty(len(texts), self.model.config.hidden_size)
        for rows in track("vectors", [order[i : i + batch_size] for i in range(0, len(order), batch_size)]):
            batch = self.tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=32, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None]
            vectors[rows] = (self.model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        return nn.functional.normalize(vectors, dim=-1)


def whole_words(source_id: str, start: str = "") -> list[str]:
    """Return the whole words of a model's vocabulary by frequency; `start` marks where words begin."""
    vocabulary = PretrainedSource(source_id, "text_decoder.source", offline=True).tokenizer.get_vocab()
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [match[1] for token in ordered if (match := re.fullmatch(start + "([a-z]{3,})", token))]


def described(descriptions: dict[str, str], sentences: Sentences) -> Tensor:
    """Return a vector (N,d) of each word: half its description, half the word alone."""
    alone = sentences.vectors([f"a {word}" for word in descriptions])
    return nn.functional.normalize(alone + sentences.vectors(list(descriptions.values())), dim=-1)


def outside_words(wordnet: WordNet, tokenizer: StoryTokenizer) -> dict[str, Sense]:
    """Return the common nouns that the weights do not know and a picture could show, with their meaning."""
    ordered = whole_words(MINILM)
    words = {*ordered, *whole_words(SMOLLM2, "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"), *wordnet.frequent()}
    words -= {*ordered[:NUM_FUNCTION_WORDS]}
    nouns = sorted(word for word in words if re.fullmatch("[a-z]{3,}", word) and wordnet.is_noun(word))
    known = KnownWords(tokenizer.words)
    unseen = [word for word in nouns if known.inflection(word) is None]
    return {word: sense for word in unseen if (sense := wordnet.sense(word)) is not None}


def nearest(senses: dict[str, Sense], sentences: Sentences, number: int) -> dict[str, tuple[Near, ...]]:
    """Return the known words nearest to each word among those of its kind."""
    table = {}
    for kind, known in DESCRIPTIONS.items():
        words = {word: sense.description for word, sense in senses.items() if sense.kind == kind}
        cosines = described(words, sentences) @ described(known, sentences).T
        for word, row in zip(words, cosines, strict=True):
            best = row.topk(min(number, len(known)))
            table[word] = tuple(
                Near(list(known)[index], cosine) for cosine, index in zip(*(x.tolist() for x in best), strict=True)
            )
    return table


def make(flags: Namespace) -> int:
    """Write the table into the model folder, and the folder's sums anew."""
    sentences, tokenizer = Sentences(), StoryTokenizer.load(flags.ckpt)
    tokenizer = StoryTokenizer(tokenizer.tokenizer, tokenizer.words)  # Without the table of the last time.
    senses = outside_words(WordNet(flags.wordnet), tokenizer)
    table = nearest(senses, sentences, NUM_NEAREST)
    table = {
        word: near for word, near in table.items() if near[0].cosine >= LEAST_COSINE or senses[word].kind == "person"
    }
    save_nearest_words(flags.ckpt, table)
    write_model_sums(flags.ckpt)
    print(f"{len(table):,} of {len(senses):,} words have a known word near in meaning")
    return 0


def check(flags: Namespace) -> int:
    """Print the share of a person's choices that the table agrees with."""
    table, choices = load_nearest_words(flags.ckpt), json.loads(CHOICES.read_text(encoding="utf-8"))
    for name, chosen in choices.items():
        if missing := [word for word in chosen if word not in table]:
            raise UserError(f"the table of {flags.ckpt} lacks {missing[0]} and {len(missing) - 1} more: make it anew")
        agrees = [float(table[word][0].word == known) for word, known in chosen.items()]
        share = bootstrap_mean(agrees, [1.0] * len(agrees))
        print(f"{len(agrees)} {name}: {share.value:.2f} [{share.low:.2f}, {share.high:.2f}] as was chosen; chance .33")
    return 0


def make_flags() -> Parser:
    """Return the parser of both commands."""
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, run in (("make", make), ("check", check)):
        command = commands.add_parser(name, help=run.__doc__)
        command.add_argument("--ckpt", type=a_path, default=ROOT / WEIGHTS, metavar="FOLDER", help="the model folder")
        command.set_defaults(run=run)
        if run is make:
            wordnet = Path("/usr/share/wordnet")
            command.add_argument("--wordnet", type=a_path, default=wordnet, metavar="FOLDER", help="WordNet's files")
    return parser


if __name__ == "__main__":
    args = make_flags().parse_args()
    sys.exit(execute(args.run, args))
