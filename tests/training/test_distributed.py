"""Two processes on CPUs, started by the repository's configuration, and the other configurations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from modules.storyboard.quantizer import VectorQuantizer
from modules.training.sharding import block_classes
from tests.support import two_ranks

pytestmark = pytest.mark.slow  # Two processes, like the trainings under FSDP2.
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/accelerate"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """The results of each of two processes, which are started as the README describes, with another program."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "two_cpus.yaml"), "--module"]
    command = [sys.executable, *launch, "tests.support.two_ranks", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_the_configuration_for_cpus_starts_two_processes(ranks):
    assert [int(rank["processes"]) for rank in ranks] == [2, 2]
    assert all(rank["is_gloo"] for rank in ranks)


# The contrastive loss of a batch in two halves


def test_contrastive_loss_is_that_of_the_joined_batch(ranks):
    towers = two_ranks.Towers()
    loss = towers(*two_ranks.pairs())
    loss.backward()
    for rank in ranks:
        torch.testing.assert_close(rank["contrastive_loss"], loss.detach())
        for name, parameter in towers.named_parameters():
            torch.testing.assert_close(rank[f"contrastive_gradient.{name}"], parameter.grad, msg=name)


def test_texts_of_the_other_process_are_looked_at():
    """Otherwise the last test would be empty: the mean of the halves' own losses is another number."""
    towers, pairs = two_ranks.Towers(), two_ranks.pairs()
    halves = [towers(*(tensor.chunk(2)[rank] for tensor in pairs)) for rank in range(2)]
    assert abs(sum(halves) / 2 - towers(*pairs)) > 0.1


# A model cut over two processes


@pytest.fixture(scope="module")
def alone() -> tuple[two_ranks.StoryModel, list[torch.Tensor], list[torch.Tensor]]:
    model = two_ranks.make_model()
    return model, *two_ranks.updates(model, *two_ranks.joined_batch())


def test_a_model_in_two_pieces_trains_as_the_whole_one(ranks, alone):
    _, losses, norms = alone
    for rank in ranks:
        torch.testing.assert_close(rank["losses"], torch.stack(losses), rtol=1e-5, atol=0)
        torch.testing.assert_close(rank["norms"], torch.stack(norms), rtol=1e-4, atol=0)


def test_each_process_holds_half_of_the_parameters(ranks, alone):
    count = sum(parameter.numel() for parameter in alone[0].parameters())
    assert sum(int(rank["held"]) for rank in ranks) == count
    assert all(0.4 < int(rank["held"]) / count < 0.6 for rank in ranks)


def test_a_model_in_two_pieces_is_put_together_for_a_checkpoint(ranks, alone):
    whole = {name.removeprefix("whole."): tensor for name, tensor in ranks[0].items() if name.startswith("whole.")}
    expected = alone[0].state_dict()
    assert whole.keys() == expected.keys()
    assert {name: tensor.dtype for name, tensor in whole.items()} == {
        name: tensor.dtype for name, tensor in expected.items()
    }
    for name, tensor in expected.items():
        if "quantizer" not in name:
            torch.testing.assert_close(
                whole[name], tensor, atol=2.1e-3, rtol=0, msg=name
            )  # Two of Adam's steps: their signs may differ.


def test_the_codebook_is_no_shard(ranks):
    """Every process has it whole and in float32, and that of the first is given to all."""
    first, second = ({name: tensor for name, tensor in rank.items() if name.startswith("quantizer.")} for rank in ranks)
    quantizer = two_ranks.make_model().storyboard.quantizer
    assert len(first) == len(dict(quantizer.named_buffers())) > 3
    for name, buffer in quantizer.named_buffers():
        assert torch.equal(first[f"quantizer.{name}"], buffer) and torch.equal(second[f"quantizer.{name}"], buffer)


def test_blocks_are_what_is_gathered_as_one(alone):
    assert {"TransformerBlock", "GPT2Block", "ResnetBlock2D", "BasicTransformerBlock"} <= set(block_classes(alone[0]))
    assert "GPT2Block" not in block_classes(
        alone[0].autoencoder
    )  # Accelerate refuses the name of a class that is not there.


# Buffers that keep their precision


def test_a_model_cast_to_bf16_keeps_its_codebook_in_float32():
    """In bf16 an average that moves by a hundredth stands still."""
    quantizer = two_ranks.make_model().storyboard.quantizer
    before = {name: buffer.clone() for name, buffer in quantizer.named_buffers()}
    vectors = torch.randn(20, quantizer.dim)
    codes = quantizer(vectors).codes
    quantizer.to(torch.bfloat16).half()
    assert all(
        torch.equal(buffer, before[name]) and buffer.dtype == before[name].dtype
        for name, buffer in quantizer.named_buffers()
    )
    assert torch.equal(quantizer(vectors).codes, codes)
    assert all(buffer.is_meta for buffer in VectorQuantizer.to(quantizer, "meta").buffers())  # It can still be moved.


# Configurations


def launched(name: str) -> dict[str, str]:
    """The environment that `accelerate launch --config_file` gives its processes."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "story_generative_model.py"])
    return prepare_multi_gpu_env(_validate_launch_command(arguments)[0])


@pytest.mark.parametrize(
    ("name", "kind", "precision"),
    [
        ("one_gpu.yaml", DistributedType.NO, "bf16"),
        ("multi_gpu.yaml", DistributedType.MULTI_GPU, "bf16"),
        ("two_cpus.yaml", DistributedType.MULTI_GPU, "no"),
        ("fsdp2.yaml", DistributedType.FSDP, "bf16"),
    ],
)
def test_configurations_are_ones_that_accelerate_reads(name, kind, precision):
    config = load_config_from_file(str(CONFIGS / name))
    assert isinstance(config, ClusterConfig)  # Which refuses keys that it does not know.
    assert (config.distributed_type, config.mixed_precision) == (kind, precision)
    assert config.num_processes == (1 if kind == DistributedType.NO else 2)


def test_every_configuration_is_tested():
    assert {path.name for path in CONFIGS.iterdir()} == {
        "one_gpu.yaml",
        "multi_gpu.yaml",
        "two_cpus.yaml",
        "fsdp2.yaml",
    }


def test_fsdp_is_of_the_second_kind_and_whole_at_the_start():
    variables = launched("fsdp2.yaml")
    with patch_environment(
        **{name: value for name, value in variables.items() if name.startswith(("FSDP", "ACCELERATE"))}
    ):
        plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy and plugin.transformer_cls_names_to_wrap is None
    assert variables["ACCELERATE_MIXED_PRECISION"] == "bf16"
