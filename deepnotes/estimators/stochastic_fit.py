"""A training run of an estimator with SGD or Adam, alone or among those of other estimators."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepnotes.backends.program import Program, State
from deepnotes.estimators.live_network import LiveNetwork
from deepnotes.estimators.sklearn_rules import Rules
from deepnotes.network.network import Network
from deepnotes.network.training.history import History
from deepnotes.network.training.loop import callback_lifecycle
from deepnotes.network.training.loop import fit as run_fit
from deepnotes.network.training.signals import Deferral
from deepnotes.network.training.state import Training


@dataclass
class StochasticFit:
    """A training run whose arguments are valid; see :class:`deepnotes.network.network.PreparedFit`.

    Attributes
    ----------
    network : Network
    training : Training
    evaluate : callable
        See :func:`deepnotes.network.training.loop.fit`.
    rules : Rules
    live_network : LiveNetwork
        That of the estimator.
    start : callable
        Returns the Program and the state with which training starts.
    error : Exception, KeyboardInterrupt or None
        What has ended the training run early.
    """

    network: Network
    training: Training
    evaluate: Callable[[], dict[str, float]]
    rules: Rules
    live_network: LiveNetwork
    start: Callable[[], tuple[Program, State]]
    error: BaseException | None = None

    def run(self, signals: Deferral | None = None) -> History:
        """Train, once only, and return the history. An error ends this training run, but not others beside it.

        Raises
        ------
        KeyboardInterrupt
            If there are `signals`, which end all training runs.
        """
        try:
            with callback_lifecycle(self.training), np.errstate(all="ignore"):
                program, self.training.state = self.start()
                run_fit(self.training, program, self.evaluate, signals)
            self.live_network.remember(self.training)
            if self.rules.best is None:
                self.live_network.use_averages(self.training)
            if signals is not None:
                _ = self.network.inference  # for the predictions that follow, while other training runs go on
                self.live_network.release_program()
        except KeyboardInterrupt as interrupt:
            if signals is not None:
                raise
            self.error = interrupt
        except Exception as error:
            self.error = error
        return self.training.history
