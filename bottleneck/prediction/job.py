"""The predict job: images or features, and a model, to a predictions table.

What is told here is the job's own: the model, what it classifies, and the figures afterwards. The
run itself is :func:`bottleneck.incremental.run.bring_up_to_date`.
"""

from __future__ import annotations

from functools import cached_property

from bottleneck.cluster import nodes
from bottleneck.cluster.sizing import size_actors
from bottleneck.console.redaction import redact_uri
from bottleneck.incremental.job import Source, TableJob, list_source
from bottleneck.incremental.plan import Plan
from bottleneck.incremental.run import bring_up_to_date
from bottleneck.models.classifier import LocatedModel, locate_model
from bottleneck.pipeline.stages import Stages
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.report import evaluate_table
from bottleneck.prediction.source import in_shard_order, open_features, rows_of
from bottleneck.prediction.stages import prediction_stages
from bottleneck.prediction.summary import PredictSummary
from bottleneck.spec import PredictionSpec, require_equal
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import ImageTable, PredictionsTable


def predict(config: PredictConfig) -> PredictSummary:
    """Brings the predictions table up to date with the source.

    Args:
        config: What to do.

    Returns:
        What was done. An interrupted run returns too, with outcome ``interrupted``.

    Raises:
        BottleneckError: Something the user can mend, or the run could not finish; everything
            committed before stays.
    """
    return bring_up_to_date(Prediction, config, PredictSummary.begin(config))


class Prediction(TableJob[PredictConfig, PredictSummary]):
    """One attempt of the predict job."""

    table_type = PredictionsTable

    def source(self) -> Source:
        """Lists the images, or the rows of the features table.

        The model is looked at first: one that is not the table's is refused before anything is
        listed.
        """
        self.spec()
        if self._features is None:
            self._source = list_source(self.config, self.snapshot)
        else:
            self._source = Source(rows_of(self._features), files=False)
        return self._source

    def spec(self) -> PredictionSpec:
        """Returns the specification of the predictions: the model's features, and its head."""
        top = min(self.config.top, len(self._model.labels))
        spec = PredictionSpec.of(self._model.spec, self._model.digest, top)
        if self.snapshot is not None:
            require_equal(spec, self.snapshot.spec, redact_uri(self.snapshot.table_uri))
        return spec

    def arrange(self, plan: Plan) -> Plan:
        """Orders rows of a features table as they lie in its shards."""
        return plan if self._features is None else in_shard_order(plan)

    def stages(self) -> Stages:
        """Returns the stages: images and the whole network, or features and the head."""
        self.connect()
        gpus = size_actors(self.config, nodes.possible_nodes()).gpus
        return prediction_stages(self.config, self._model, self.spec(), self._features, gpus)

    def finish(self, table: ImageTable) -> None:
        """Evaluates the predictions where labels are known, and writes the report."""
        images = self._source.images if self._source.files else None
        evaluate_table(self.config, table.snapshot(), self._model, images, self.summary)

    @cached_property
    def _model(self) -> LocatedModel:
        return locate_model(self.config.model, self.config.weights)

    @cached_property
    def _features(self) -> Snapshot | None:
        """The features table, when that is the source."""
        return open_features(self.config, self._model) if self.config.features else None
