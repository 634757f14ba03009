"""Selection of the phases that a run trains. Checked before any weight is built; imports no torch."""

from __future__ import annotations

from collections.abc import Collection

from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.training.settings import PHASE_NAMES, TrainSettings


def trained_phases(config: StoryConfig) -> list[str]:
    """Return the phases that `config` trains, in order.

    Left out are phases of no updates, the phase of a pretrained autoencoder, and planning where there are no codes.
    """
    skipped = {"autoencoder"} if config.autoencoder.source else set()
    if config.plan != "codes":
        skipped.add("planning")
    return [name for name in PHASE_NAMES if name not in skipped and config.training.num_updates(name)]


def inherited_phases(config: StoryConfig, settings: TrainSettings, donor: StoryConfig) -> list[str]:
    """Return the phases that need not be repeated by a run that starts from a trained model of the config `donor`.

    These are the phases before the first one that `settings` asks for, and the autoencoder's if both have the same,
    unless it is the only one asked for. The joint phase needs an opening of its own: a trained model has no auxiliary
    predictors. Raises UserError if the decoder of an autoencoder that is not there is to be trained.
    """
    latent_shape, donor_shape = config.autoencoder.latent_shape, donor.autoencoder.latent_shape
    if config.training.autoencoder_trains == "decoder" and latent_shape != donor_shape:
        raise UserError(
            f"training.autoencoder_trains is decoder, but the latents of --init_from are {donor_shape}, this config's"
            f" {latent_shape}: train all of the autoencoder"
        )
    has_same_autoencoder = donor.autoencoder.architecture == config.autoencoder.architecture
    if settings.phases == ("autoencoder",):
        return []
    trained = [name for name in trained_phases(config) if name != "autoencoder"]
    asked = [name for name in trained if name in settings.phases]
    inherited = trained[: trained.index(asked[0])] if asked and "joint" not in asked else []
    return (["autoencoder"] if has_same_autoencoder else []) + inherited


def plan_phases(config: StoryConfig, settings: TrainSettings, done: Collection[str]) -> list[str]:
    """Return the phases to run, in order: those that `settings` asks for, without those in `done`.

    Raises UserError if there is no autoencoder, if the phases asked for train nothing, if one that they build on is
    missing, and if a cache cannot belong to the autoencoder.
    """
    trained = trained_phases(config)
    has_autoencoder = bool(config.autoencoder.source) or settings.autoencoder is not None
    if not (has_autoencoder or "autoencoder" in (*trained, *done)):
        raise UserError("training.autoencoder_ratio is 0: give a trained autoencoder by --autoencoder")
    if settings.autoencoder is not None and settings.phases == ("autoencoder",) and "autoencoder" not in done:
        raise UserError("--autoencoder replaces the only phase that --phases asks for: leave one of the two out")
    if not set(trained) & set(settings.phases):
        raise UserError(
            f"this config trains nothing in {','.join(settings.phases)}: name some of {','.join(trained)} by --phases"
        )
    if settings.cache is not None and not (has_autoencoder or "autoencoder" in done):
        raise UserError("--cache belongs to the autoencoder that it was made with: give that one by --autoencoder")
    finished = {*done, "autoencoder"} if has_autoencoder else set(done)
    phases = []
    for name in settings.phases:
        if name not in trained or name in finished:
            continue
        missing = [other for other in trained[: trained.index(name)] if other not in finished]
        if missing:
            raise UserError(
                f"--phases {name} needs a finished {missing[0]} phase in {settings.output_dir}: run that first"
            )
        phases.append(name)
        finished.add(name)
    return phases
