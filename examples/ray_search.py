"""Spread a search over the workers of Ray: here two processes on this machine, elsewhere many machines."""
# ruff: noqa: T201

import ray
from joblib import parallel_config
from ray.util.joblib import register_ray
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import deepnotes as dn


def main() -> None:
    """Search with Ray, then in this process, and compare the results."""
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    scaler = StandardScaler().fit(X_train)

    model = dn.DenseClassifier((16,), max_iter=200, tol=0.001, random_state=0)
    grid = {"activation": ["relu", "tanh"], "learning_rate_init": [0.001, 0.01]}
    search = dn.DenseSearchCV(model, grid, cv=3)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)  # elsewhere: ray.init("auto")
    register_ray()
    with parallel_config(backend="ray"):
        search.fit(scaler.transform(X_train), y_train)  # the workers train one network at a time each
    ray.shutdown()
    scores = search.cv_results_["mean_test_score"]
    print(f"best of {len(scores)}: {search.best_params_}, mean accuracy {search.best_score_:.1%}")
    print(f"accuracy on held-out samples: {search.score(scaler.transform(X_test), y_test):.1%}")

    search.fit(scaler.transform(X_train), y_train)  # all networks train together in this process
    print(f"the same scores without Ray: {bool((search.cv_results_['mean_test_score'] == scores).all())}")


if __name__ == "__main__":
    main()
