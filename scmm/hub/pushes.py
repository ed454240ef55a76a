"""What a trainer pushes: repositories that load without `scmm` at every save, and tell of their run."""

import shutil
from concurrent.futures import Future
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.utils import CONFIG_NAME, logging

from scmm.hub.model_card import RANDOM_WEIGHTS, write_model_card
from scmm.results import METRICS, RESULTS_NAME, read_results


logger = logging.get_logger(__name__)


class HubTrainer(Trainer):
    """
    A [`Trainer`] whose pushes are complete. The plain one forgets the model's code in the middle of training, so that
    the configuration names files that are not there; its card knows nothing of retrieval; and it does not tell when a
    push fails in the background.
    """

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Writes the model card and `.eval_results` into the output folder, as [`~scmm.hub.model_card.write_model_card`].
        The facts are those of `results.json` where the run has written it, and else what the trainer knows.

        Args:
            language, license, tags, finetuned_from, tasks, dataset_tags:
                Metadata as in [`Trainer.create_model_card`], in place of the card's own; tags are added.
            dataset (`str`, *optional*): the training data's name, which a trainer is not told.
            model_name, dataset_args: not used; the card is named after its repository.
        """
        if self._trains_adapter():  # which has a card of its own
            super().create_model_card(
                language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
            )
        elif self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            results = read_results(folder) if (folder / RESULTS_NAME).is_file() else None
            if results is None or results["last"]["step"] != self.state.global_step:  # of an earlier run
                selected = self.state.best_global_step if self.args.load_best_model_at_end else None
                results = self._facts(selected, dataset)
            metadata = {"language": language, "license": license, "tags": tags, "pipeline_tag": tasks}
            metadata |= {"base_model": finetuned_from, "datasets": dataset_tags}
            write_model_card(folder, results, repo_id=self.hub_model_id, metadata=metadata)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As [`Trainer._push_from_checkpoint`]."""
        if self.is_world_process_zero() and not self._trains_adapter():
            folder = Path(str(self.args.output_dir))
            for file in (*Path(checkpoint_folder).glob("*.py"), Path(checkpoint_folder, CONFIG_NAME)):
                shutil.copy(file, folder)
            write_model_card(folder, self._facts(), repo_id=self.hub_model_id)
        earlier = self._push_jobs()
        super()._push_from_checkpoint(checkpoint_folder)
        for job in self._push_jobs() - earlier:
            job.add_done_callback(_warn_of_failed_push)

    def _trains_adapter(self) -> bool:
        return not isinstance(self.accelerator.unwrap_model(self.model), PreTrainedModel)

    def _push_jobs(self) -> set[Future]:
        return set() if self.push_in_progress is None else set(self.push_in_progress.jobs)  # ty: ignore[invalid-argument-type]

    def _facts(self, selected: int | None = None, dataset: Any = None) -> dict[str, Any]:
        """What the trainer knows, in the form of `results.json`, of the model selected at a step or of the last."""
        step = selected or self.state.global_step
        logged = [entry for entry in self.state.log_history if entry["step"] == step and "eval_rank1" in entry]
        best = {"epoch": logged[-1]["epoch"] if logged else self.state.epoch, "step": step}
        if logged:
            best["evaluation"] = {name: logged[-1][f"eval_{name}"] for name in (*METRICS, "num_queries")}
        arguments = extract_hyperparameters_from_trainer(self)
        arguments["optimizer"] = str(getattr(self.args.optim, "value", self.args.optim))
        known = {field.name for field in fields(TrainingArguments)}
        for field in fields(self.args):
            if field.name not in known and getattr(self.args, field.name) != field.default:
                arguments[field.name] = getattr(self.args, field.name)
        return {
            "data": {"dataset": dataset},
            "seed": arguments.pop("seed"),
            "selection": {"metric": str(self.args.metric_for_best_model).removeprefix("eval_") if selected else None},
            "best": best,
            "arguments": arguments,
            "model": {"start": self.accelerator.unwrap_model(self.model).name_or_path or RANDOM_WEIGHTS},
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }


def _warn_of_failed_push(job: Future) -> None:
    """Training goes on without the Hub, but silence would let a user believe that the checkpoint is there."""
    if not job.cancelled() and job.exception() is not None:
        logger.warning(f"A push to the Hub failed; training goes on, and the next push sends all: {job.exception()}")
