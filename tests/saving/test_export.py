"""A trained model leaves: as a folder, on the Hub, as low-rank updates alone; and is found again by many names."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import PeftAdapterMixin
from huggingface_hub import HfApi
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import story_generative_model
from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import make_vocabulary
from tests.support.tiny_presets import tiny_preset

PROMPT = "Rusty the fox wants a kite"


@pytest.fixture(scope="module")
def tuned(hub) -> StoryPipeline:
    """gpt2-sd15 at toy size, with codes in use and a LoRA that has an effect."""
    config = tiny_preset("gpt2-sd15", hub)
    torch.manual_seed(0)
    model = StoryModel(config, offline=True)
    model.storyboard.quantizer.fit(torch.randn(640, config.storyboard.codebook_dim), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return StoryPipeline(model, make_vocabulary(config.text_decoder, config.vocab_size, []))


def same_story(first: StoryPipeline, second: StoryPipeline) -> bool:
    told = [pipeline(PROMPT, 2, seed=3, num_inference_steps=2) for pipeline in (first, second)]
    return told[0].texts == told[1].texts and [page.tobytes() for page in told[0].images] == [
        page.tobytes() for page in told[1].images
    ]


def test_a_folder_tells_the_same_story(tiny_pipeline, tmp_path):
    folder = tiny_pipeline.save_pretrained(tmp_path / "mine")
    assert "# mine" in (folder / "README.md").read_text() and same_story(
        StoryPipeline.from_pretrained(folder), tiny_pipeline
    )


def test_pretrained_parts_are_not_copied(tuned, tmp_path):
    folder = tuned.save_pretrained(tmp_path / "mine")
    names = set(load_file(folder / "model.safetensors"))
    assert not names & tuned.model.frozen and any("lora_B" in name for name in names)
    StoryPipeline.from_pretrained(folder, offline=True)


def test_a_lora_alone_is_read_by_peft_and_diffusers(tuned, tmp_path):
    text, image = tuned.save_lora(tmp_path)
    source = tuned.config.text_decoder.source
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source), text).eval()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        mine = tuned.model.text_decoder.logits(torch.zeros(1, 8, 8), ids, torch.ones_like(ids, dtype=torch.bool))
        torch.testing.assert_close(plain(ids).logits, mine, atol=1e-4, rtol=1e-4)  # The gates are at zero.
    unet = UNet2DConditionModel.from_pretrained(tuned.config.image_decoder.source, subfolder="unet")
    assert isinstance(unet, PeftAdapterMixin)
    unet.load_lora_adapter(load_file(image / "pytorch_lora_weights.safetensors"), prefix="unet")
    mine = {name: value for name, value in tuned.model.image_decoder.unet.named_parameters() if "lora_B" in name}
    theirs = {name: value for name, value in unet.named_parameters() if "lora_B" in name}
    assert mine and len(mine) == len(theirs)
    for value, other in zip(mine.values(), theirs.values(), strict=True):
        assert torch.equal(value, other)


def test_a_model_without_lora_says_so(tiny_pipeline, tmp_path):
    with pytest.raises(UserError, match="no LoRA"):
        tiny_pipeline.save_lora(tmp_path)


class StandIn(BaseHTTPRequestHandler):
    """A stand-in for the Hub that accepts a commit; `asked` are the requests as (method, path, body)."""

    asked: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, body))
        url = f"http://{self.headers['Host']}/me/mine"
        answer = {"url": url, "commitUrl": f"{url}/commit/{'0' * 40}", "commitOid": "0" * 40, "hookOutput": ""}
        if "preupload" in self.path:
            answer = {
                "files": [
                    {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                ]
            }
        self._answer(answer)

    def do_GET(self) -> None:
        self.asked.append((self.command, self.path, b""))
        self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

    def _answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_push_to_hub_uploads_the_folder(tiny_pipeline, monkeypatch):
    """Requests that the real client makes of a stand-in for the Hub."""
    StandIn.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=endpoint, token="hf_x"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    try:
        assert tiny_pipeline.push_to_hub("me/mine").endswith("me/mine")
    finally:
        server.shutdown()
    commit = next(body for _, path, body in StandIn.asked if "/commit/" in path).decode()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "words.json", "README.md"):
        assert f'"path": "{name}"' in commit or f'"path":"{name}"' in commit, name


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--lora", "x", "--output", "y"],
        ["--push_to_hub", "nonsense"],
        ["--ckpt", "nobody/nothing", "--output", "x", "--offline"],
    ],
)
def test_mistakes_are_told_in_a_line(words, capsys, tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    ckpt = [] if "--ckpt" in words else ["--ckpt", str(tiny_checkpoint)]
    assert story_generative_model.main(["export", *ckpt, *words]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and "Traceback" not in error
    assert not list(tmp_path.rglob("*.safetensors"))
