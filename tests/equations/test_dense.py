"""The dense layer (N1 to N5, N12 to N16), checked with small integers, whose sums are exact, or explicit formulas."""

import math

import numpy as np
import pytest

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.nn.layers import Context, Dense

U = 2.0**-53  # unit roundoff of float64
SHAPES = [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1), (4, 3, 0)]  # n, n_prev, m


def integers(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


def network(layers, inputs, seed=0):
    """Return a float64 network whose weights and biases are small integers."""
    net = dn.Network(layers, inputs, backend="numpy", dtype="float64", seed=0)
    net.set_flat(integers(seed, net.layout.size))
    return net


def test_each_neuron_computes_one_row_of_the_layer():
    """N1: z_j = w_j · a + b_j for each neuron and sample; the z_j are the rows of Z in N2."""
    W, A_prev, b = integers(0, 4, 3), integers(1, 3, 5), integers(2, 4, 1)
    Z = eq.linear(np, W, A_prev, b)
    for j in range(4):
        z = [sum(W[j, k] * A_prev[k, i] for k in range(3)) + b[j, 0] for i in range(5)]
        assert Z[j].tolist() == z
        assert eq.linear(np, W[[j]], A_prev, b[[j]])[0].tolist() == z


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bias_broadcasts_over_the_samples(dtype):
    """N2: Z = W A_prev + b, where the rows of W are the neurons."""
    W = np.array([[1, 2, 3], [0, -1, 4]], dtype)
    A_prev = np.array([[1, 0], [2, 5], [-3, 1]], dtype)
    b = np.array([[10], [-20]], dtype)
    Z = eq.linear(np, W, A_prev, b)
    assert Z.tolist() == [[6.0, 23.0], [-34.0, -21.0]]
    assert Z.dtype == dtype


@pytest.mark.parametrize(("n", "n_prev", "m"), SHAPES)
def test_shapes(n, n_prev, m):
    """N2, N3, N12 to N15: every array of a layer has the shape given in the notes, even in an empty batch."""
    W, b, A_prev = integers(0, n, n_prev), integers(1, n, 1), integers(2, n_prev, m)
    layer, ops, parameters = Dense(n, "sigmoid"), dn.get_backend("numpy").ops, {"W": W, "b": b}
    A, cache = layer.forward(ops, parameters, A_prev, Context(1, 0, None))
    assert A.shape == (n, m)
    assert {x.shape for x in cache} == {(n_prev, m), (n, m)}
    if m:
        dA_prev, gradients = layer.backward(ops, parameters, cache, np.ones((n, m)))
        assert dA_prev.shape == A_prev.shape
        assert {name: g.shape for name, g in gradients.items()} == {"W": W.shape, "b": b.shape}


def test_a_layer_applies_its_activation_to_z():
    """N3: A = g(Z)."""
    W, A_prev, b = integers(0, 4, 3), integers(1, 3, 5), integers(2, 4, 1)
    Z = W @ A_prev + b
    A, _ = Dense(4, "relu").forward(dn.get_backend("numpy").ops, {"W": W, "b": b}, A_prev, Context(1, 0, None))
    assert A.tolist() == [[max(z, 0.0) for z in row] for row in Z.tolist()]


def test_two_linear_layers_are_equivalent_to_one():
    """N4: W[2] (W[1] A[0] + b[1]) + b[2] = (W[2] W[1]) A[0] + (W[2] b[1] + b[2])."""
    W1, b1, W2, b2, A0 = integers(0, 4, 3), integers(1, 4, 1), integers(2, 2, 4), integers(3, 2, 1), integers(4, 3, 5)
    A1 = eq.identity(np, eq.linear(np, W1, A0, b1))
    A2 = eq.identity(np, eq.linear(np, W2, A1, b2))
    assert A2.tolist() == eq.linear(np, W2 @ W1, A0, W2 @ b1 + b2).tolist()


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_network_of_any_depth_without_activations_is_equivalent_to_one_layer(depth):
    """N4: with g = identity, any depth collapses to W A[0] + b with W = W[L] ... W[1]; exact on integers."""
    net = network([Dense(2 + layer % 3) for layer in range(depth)], inputs=3)
    W, b = np.eye(3), np.zeros((3, 1))
    for layer in range(1, depth + 1):
        W, b = net.parameters[f"W{layer}"] @ W, net.parameters[f"W{layer}"] @ b + net.parameters[f"b{layer}"]
    X = integers(5, 3, 7)
    assert net.predict(X).tolist() == (W @ X + b).tolist()


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
def test_a_network_is_affine_only_with_a_linear_activation(activation):
    """N4: an affine map sends midpoints to midpoints; a network does so only if g is the identity."""
    net = network([Dense(4, activation), Dense(2)], inputs=3)
    x, y = integers(5, 3, 4), integers(6, 3, 4)
    midpoints = net.predict((x + y) / 2), (net.predict(x) + net.predict(y)) / 2
    assert np.array_equal(*midpoints) == (activation == "identity")


def test_the_example_network_of_the_notes():
    """N5: 3 inputs, a hidden layer of 4 neurons and 1 sigmoid output, computed neuron by neuron.

    Every Z is exact, so only the sigmoid is rounded: at most 5 ulp in the network, and 5 ulp in the scalar formula.
    """
    net = network([Dense(4, "relu"), Dense(1, "sigmoid")], inputs=3)
    assert {name: p.shape for name, p in net.parameters.items()} == {
        "W1": (4, 3), "b1": (4, 1), "W2": (1, 4), "b2": (1, 1)
    }  # fmt: skip
    assert net.layout.size == (4 * 3 + 4) + (1 * 4 + 1) == 21

    net.parameters["W2"] = net.parameters["W2"] / 64  # so that the sigmoid of Z[2] is not rounded to 0 or 1
    W1, b1, W2, b2 = net.parameters.values()
    X = integers(5, 3, 6)
    for i, a in enumerate(net.predict(X)[0].tolist()):
        A1 = [max(0.0, sum(W1[j, k] * X[k, i] for k in range(3)) + b1[j, 0]) for j in range(4)]
        z = sum(W2[0, j] * A1[j] for j in range(4)) + b2[0, 0]
        expected = 1 / (1 + math.exp(-z))
        assert 0 < a < 1
        assert abs(a - expected) <= (5 + 5) * math.ulp(expected)


def test_dz_is_da_times_the_slope():
    """N12: dZ = dA * g'(Z), elementwise: relu passes dA on where z > 0."""
    dA, Z = integers(0, 4, 5), integers(1, 4, 5)
    dZ = eq.relu_backward(np, dA, Z, eq.relu(np, Z))
    assert (Z == 0).any()
    assert dZ.tolist() == [[dA[j, i] if Z[j, i] > 0 else 0.0 for i in range(5)] for j in range(4)]


def test_weight_gradient():
    """N13: dW = (1/m) dZ A_prevᵀ."""
    dZ, A_prev = np.array([[4.0, -8.0], [2.0, 6.0]]), np.array([[1.0, 2.0], [3.0, 5.0], [0.0, -1.0]])
    assert eq.weight_gradient(np, dZ, A_prev).tolist() == [[-6.0, -14.0, 4.0], [7.0, 18.0, -3.0]]


def test_bias_gradient():
    """N14: db = (1/m) Σ dZ over the samples, with the axis kept."""
    assert eq.bias_gradient(np, np.array([[4.0, -8.0], [2.0, 6.0]])).tolist() == [[-2.0], [4.0]]


def test_input_gradient():
    """N15: dA_prev = Wᵀ dZ."""
    W, dZ = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]]), np.array([[4.0, -8.0], [2.0, 6.0]])
    assert eq.input_gradient(np, W, dZ).tolist() == [[4.0, -8.0], [6.0, -22.0], [22.0, 6.0]]


def test_the_mean_over_the_samples_is_taken_once():
    """N13, N14, N15: repeating all samples keeps dW and db, and repeats dA_prev; exact, since m is a power of 2."""
    W, dZ, A_prev = integers(0, 4, 3), integers(1, 4, 8), integers(2, 3, 8)
    dZ2, A_prev2 = np.tile(dZ, 2), np.tile(A_prev, 2)
    assert eq.weight_gradient(np, dZ2, A_prev2).tolist() == eq.weight_gradient(np, dZ, A_prev).tolist()
    assert eq.bias_gradient(np, dZ2).tolist() == eq.bias_gradient(np, dZ).tolist()
    assert eq.input_gradient(np, W, dZ2).tolist() == np.tile(eq.input_gradient(np, W, dZ), 2).tolist()

    net, X, Y = network([Dense(3, "relu"), Dense(2)], inputs=3), integers(3, 3, 4), integers(4, 2, 4)
    once, twice = net.gradients(X, Y), net.gradients(np.tile(X, 2), np.tile(Y, 2))
    assert {k: g.tolist() for k, g in once.items()} == {k: g.tolist() for k, g in twice.items()}


def test_the_backward_pass_of_a_layer_composes_four_equations():
    """N12, N13, N14 and N15, composed by :class:`Dense`, on integers."""
    W, b, A_prev, dA = integers(0, 4, 3), integers(1, 4, 1), integers(2, 3, 8), integers(3, 4, 8)
    layer, ops, parameters = Dense(4, "relu"), dn.get_backend("numpy").ops, {"W": W, "b": b}
    _, cache = layer.forward(ops, parameters, A_prev, Context(1, 0, None))
    dA_prev, gradients = layer.backward(ops, parameters, cache, dA)
    dZ = dA * (W @ A_prev + b > 0)
    assert gradients["W"].tolist() == (dZ @ A_prev.T / 8).tolist()
    assert gradients["b"].tolist() == (dZ.sum(axis=1, keepdims=True) / 8).tolist()
    assert dA_prev.tolist() == (W.T @ dZ).tolist()


@pytest.mark.parametrize("m", [1, 6])
def test_the_two_layer_chain_written_out(m):
    """N16: ∂L/∂W[1] = (W[2]ᵀ (A[2] - Y) * g'[1](Z[1])) Xᵀ for each sample; net.gradients returns the mean.

    Z[1] is an exact integer and there is only one output, so both sides sum the same m products, perhaps in a
    different order.
    """
    net = network([Dense(4, "tanh"), Dense(1, "sigmoid")], inputs=3, seed=1)
    net.parameters["W1"] = np.sign(net.parameters["W1"])
    X = np.sign(integers(2, 3, m))
    Y = integers(3, 1, m) > 0
    W1, b1, W2 = (net.parameters[name] for name in ("W1", "b1", "W2"))

    Z1 = W1 @ X + b1
    A2 = net.predict(X)
    dZ1 = (W2.T @ (A2 - Y)) * (1 - np.tanh(Z1) ** 2)
    expected = dZ1 @ X.T / m

    dW1 = net.gradients(X, Y, loss="binary_cross_entropy")["W1"]
    bound = 2 * (m + 1) * U * (abs(dZ1) @ abs(X.T)) / m
    assert (abs(dW1 - expected) <= bound).all()
    assert abs(expected).max() > 1e6 * bound.max()


def test_gather_returns_columns_in_the_given_order():
    X = integers(0, 3, 5)
    indices = np.array([4, 0, 0, 2])
    assert eq.gather(np, X, indices).tolist() == [[row[i] for i in indices] for row in X.tolist()]
    assert eq.gather(np, X, indices[:0]).shape == (3, 0)


def test_standardize_scales_each_feature():
    X, mean, scale = np.array([[3.0, 5.0], [10.0, 30.0]]), np.array([[1.0], [20.0]]), np.array([[2.0], [10.0]])
    assert eq.standardize(np, X, mean, scale).tolist() == [[1.0, 2.0], [-1.0, 1.0]]
