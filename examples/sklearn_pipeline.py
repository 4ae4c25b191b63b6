"""Use a classifier in scikit-learn's pipeline and grid search."""
# ruff: noqa: T201

from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import deepnotes as dn

X, y = load_wine(return_X_y=True)  # samples are rows, as everywhere in scikit-learn
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

model = make_pipeline(
    StandardScaler(), dn.DenseClassifier((16,), max_iter=500, learning_rate_init=0.01, random_state=0)
)
grid = {"denseclassifier__activation": ["relu", "tanh"], "denseclassifier__alpha": [0.0001, 0.1]}
search = GridSearchCV(model, grid, cv=3).fit(X_train, y_train)

for parameters, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    description = ", ".join(f"{name.removeprefix('denseclassifier__')}={value}" for name, value in parameters.items())
    print(f"{description}: {score:.1%}")
print(f"accuracy on held-out wines: {search.score(X_test, y_test):.1%}")

net = search.best_estimator_[-1].to_network()  # a dn.Network, to save or export
print(net.summary())
