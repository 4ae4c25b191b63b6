"""Search for the best settings with Optuna, which proposes eight networks at a time to train side by side."""
# ruff: noqa: T201

import numpy as np
import optuna
from sklearn.datasets import load_breast_cancer

import deepnotes as dn

ROUNDS, AT_A_TIME = 4, 8

X, y = load_breast_cancer(return_X_y=True)
X, y = X.T, y[None]  # samples are columns
order = np.random.default_rng(0).permutation(X.shape[1])
train, validation, test = np.split(order, [300, 435])
standardizer = dn.Standardizer.fit(X[:, train])


def network(trial: optuna.Trial) -> dn.Network:
    """Return a network whose layers the trial proposes."""
    activation = trial.suggest_categorical("activation", ["relu", "tanh", "gelu"])
    layers: list[dn.Layer] = []
    for i in range(trial.suggest_int("layers", 1, 2)):
        layers.append(dn.Dense(trial.suggest_int(f"units_{i}", 4, 64, log=True), activation))
        layers.append(dn.Dropout(trial.suggest_float(f"dropout_{i}", 0, 0.5)))
    return dn.Network([*layers, dn.Dense(1, "sigmoid")], inputs=len(X), seed=trial.number, standardizer=standardizer)


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
networks: dict[int, dn.Network] = {}
for i in range(ROUNDS):
    trials = [study.ask() for _ in range(AT_A_TIME)]
    results = dn.fit_many(
        [network(trial) for trial in trials],
        X,
        y,
        epochs=30,
        optimizer=[dn.Adam(trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)) for trial in trials],
        l2=[trial.suggest_float("l2", 1e-6, 1e-1, log=True) for trial in trials],
        samples=train,
        validation=validation,
        early_stopping=dn.EarlyStopping(5),
    )
    for trial, result in zip(trials, results, strict=True):
        networks[trial.number] = result.network
        if result.error is None:
            study.tell(trial, min(result.history.val_loss))
        else:  # the loss has become NaN or infinite
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    print(f"after {AT_A_TIME * (i + 1)} networks: best validation loss {study.best_value:.4f}")

print(", ".join(f"{name}={value}" for name, value in study.best_params.items()))
best = networks[study.best_trial.number]  # with the parameters of its best epoch
accuracy = best.evaluate(X[:, test], y[:, test], metrics="accuracy")["accuracy"]
print(f"accuracy on held-out samples: {accuracy:.1%}")
