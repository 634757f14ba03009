"""What each of two processes computes of a joined batch; `test_distributed.py` starts them and compares with one
process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.batch import StepNoise, StoryBatch, draw_noise
from modules.presets import TINY
from modules.story_model.story_model import StoryModel
from modules.storyboard.contrastive import ContrastiveLoss
from modules.training.processes import make_accelerator
from modules.training.settings import TrainSettings
from modules.training.sharding import broadcast_buffers, full, shard_model

STORIES, STEPS, UPDATES = 4, 3, 2


class Towers(nn.Module):
    """Two small encoders and the loss between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text, self.contrast = nn.Linear(6, 5), nn.Linear(7, 5), ContrastiveLoss(scale=5.0, bias=-2.0)

    def forward(self, images: Tensor, texts: Tensor, mask: Tensor, groups: Tensor) -> Tensor:
        return self.contrast(self.image(images), self.text(texts), mask, groups).loss


def pairs() -> tuple[Tensor, ...]:
    """Eight steps: two of them do not occur, and one text occurs in both halves."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([True, True, False, True, True, True, True, False])
    return (
        torch.randn(8, 6, generator=generator),
        torch.randn(8, 7, generator=generator),
        mask,
        torch.tensor([1, 2, 3, 4, 5, 2, 6, 7]),
    )


def make_model() -> StoryModel:
    torch.manual_seed(0)
    model = StoryModel(TINY).train()
    model.storyboard.quantizer.fit(torch.randn(640, TINY.storyboard.codebook_dim), seed=0)
    return model


def joined_batch() -> tuple[StoryBatch, StepNoise]:
    """Stories of uneven lengths, with texts of uneven lengths."""
    generator = torch.Generator().manual_seed(2)
    step_mask = torch.arange(STEPS) < torch.tensor([3, 1, 2, 3])[:, None]
    lengths = torch.randint(2, 40, (STORIES, STEPS, 1), generator=generator)
    text_mask = (torch.arange(TINY.text_decoder.max_length) < lengths) & step_mask[..., None]
    batch = StoryBatch(
        prompt_ids=torch.randint(3, TINY.vocab_size, (STORIES, 9), generator=generator),
        prompt_mask=torch.ones(STORIES, 9).bool(),
        input_ids=torch.randint(3, TINY.vocab_size, text_mask.shape, generator=generator),
        text_mask=text_mask,
        latents=torch.randn(STORIES, STEPS, *TINY.autoencoder.latent_shape, generator=generator),
        image_mask=step_mask,
        step_mask=step_mask,
        num_steps=step_mask.sum().float(),
        num_images=step_mask.sum().float(),
        num_tokens=text_mask[..., 1:].sum().float(),
    )
    return batch, draw_noise(STORIES * STEPS, TINY.autoencoder.latent_shape, 1000, generator, 0.25, 0.1, 0.1)


def part_of(batch: StoryBatch, noise: StepNoise, rank: int) -> tuple[StoryBatch, StepNoise]:
    """One half of the joined batch; its counts are half of the whole's, as in training."""
    half = STORIES // 2
    counts = {name: value / 2 for name, value in batch.items() if value.ndim == 0}
    rows = {name: value[rank * half : (rank + 1) * half] for name, value in batch.items() if value.ndim}
    return StoryBatch(**rows, **counts), noise.rows(rank * half * STEPS, (rank + 1) * half * STEPS)


def updates(model: nn.Module, batch: StoryBatch, noise: StepNoise) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and gradient norms of two updates as training makes them."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    losses, norms = [], []
    for _ in range(UPDATES):
        loss = model(batch, noise).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    return losses, norms


def main(folder: Path) -> None:
    accelerator = make_accelerator(TrainSettings(folder))
    rank, results = accelerator.process_index, {}
    results["processes"] = torch.tensor(accelerator.num_processes)
    results["is_gloo"] = torch.tensor(dist.get_backend() == "gloo")

    towers = DistributedDataParallel(Towers())
    loss = towers(*(tensor.chunk(2)[rank] for tensor in pairs()))
    loss.backward()
    results["contrastive_loss"] = accelerator.reduce(loss.detach(), "mean")
    results |= {f"contrastive_gradient.{name}": parameter.grad for name, parameter in towers.module.named_parameters()}

    model = make_model()
    shard_model(model)
    results["held"] = torch.tensor(sum(parameter.to_local().numel() for parameter in model.parameters()))
    losses, norms = updates(model, *part_of(*joined_batch(), rank))
    results["losses"], results["norms"] = accelerator.reduce(torch.stack(losses), "mean"), torch.stack(norms)
    quantizer = model.storyboard.quantizer
    with torch.no_grad():
        quantizer.embed_avg.add_(rank)  # As if the processes had come apart.
    broadcast_buffers(quantizer)
    results |= {f"quantizer.{name}": buffer for name, buffer in quantizer.named_buffers()}
    results |= {f"whole.{name}": full(tensor) for name, tensor in model.state_dict().items()}
    save_file(
        {name: tensor.detach().contiguous().clone() for name, tensor in results.items()}, folder / f"{rank}.safetensors"
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
