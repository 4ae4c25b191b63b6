// Activations and their derivatives (N3, N6 to N9, N12), element by element; deepnotes/equations/activations.py has the
// equations. All functions return NaN for NaN: comparisons are written so that NaN takes the branch that keeps it.

#include "common.cuh"

enum Activation { IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, ELU, GELU, GELU_TANH, SILU, SOFTPLUS, EXP };

constexpr real GELU_C = real(1.5957691216057307117597842397375);        // 2 sqrt(2 / pi)
constexpr real GELU_CUBIC = real(0.044715);
constexpr real DENSITY = real(0.39894228040143267793994605993438);      // 1 / sqrt(2 pi)
constexpr real ROOT_HALF = real(0.70710678118654752440084436210485);
constexpr real ROOT_HALF_REST = sizeof(real) == 4 ? real(1.2101617104478969e-8) : real(-4.8336466567264567e-17);
constexpr real TWO_OVER_ROOT_PI = real(1.1283791670955125738961589031215);

__device__ inline real sigmoid(real z) { return 1 / (1 + exp(-z)); }  // N6

__device__ inline real positive_part(real z) { return z < 0 ? real(0) : z; }  // N8

__device__ inline real softplus(real z) { return positive_part(z) + log1p(exp(-fabs(z))); }

// An error of the argument x of erfc is multiplied by 2 x: the part of it that rounding cut off is made up for.
__device__ inline real normal_cdf(real z) {
    const real x = -z * ROOT_HALF, rest = fma(-z, ROOT_HALF, -x) - z * ROOT_HALF_REST;
    const real correction = fabs(x) < 30 ? TWO_OVER_ROOT_PI * exp(-x * x) * rest : real(0);
    return real(0.5) * (erfc(x) - correction);
}

__device__ inline real gelu_tanh_argument(real z) { return GELU_C * (z + GELU_CUBIC * z * z * z); }

__device__ inline real gelu_tanh_slope(real z) {
    const real s = sigmoid(gelu_tanh_argument(z));
    const real t = z * (s * (1 - s));  // t is 0 long before z * z overflows
    return s + GELU_C * t + 3 * GELU_CUBIC * GELU_C * (t * z * z);
}

__device__ inline real silu_slope(real z) {
    const real s = sigmoid(z);
    return s * (1 + z * (1 - s));
}

// Replace each v[i] by f(v[i]).
template <int V, class F>
__device__ inline void apply(real (&v)[V], F f) {
#pragma unroll
    for (int i = 0; i < V; i++) v[i] = f(v[i]);
}

// Replace z by a = g(z) (N3), for all activations except softmax.
template <int V>
__device__ inline void activate(int code, real option, real (&z)[V]) {
    switch (code) {
        case SIGMOID: apply(z, [](real x) { return sigmoid(x); }); break;                                   // N6
        case TANH: apply(z, [](real x) { return tanh(x); }); break;                                         // N7
        case RELU: apply(z, [](real x) { return positive_part(x); }); break;                                // N8
        case LEAKY_RELU: apply(z, [=](real x) { return x >= 0 ? x : option * x; }); break;                  // N9
        case ELU: apply(z, [=](real x) { return x > 0 ? x : option * expm1(x); }); break;
        case GELU: apply(z, [](real x) { return x * normal_cdf(x); }); break;
        case GELU_TANH: apply(z, [](real x) { return x / (1 + exp(-gelu_tanh_argument(x))); }); break;
        case SILU: apply(z, [](real x) { return x / (1 + exp(-x)); }); break;
        case SOFTPLUS: apply(z, [](real x) { return softplus(x); }); break;
        case EXP: apply(z, [](real x) { return exp(x); }); break;
    }
}

// Whether the derivative is a function of a = g(z), so that z is not needed.
__device__ inline bool slope_of_a(int code) { return code == SIGMOID || code == TANH || code == RELU || code == EXP; }

// Replace x by g'(z), where x is a = g(z) if slope_of_a(code), and z otherwise.
template <int V>
__device__ inline void slope(int code, real option, real (&x)[V]) {
    switch (code) {
        case SIGMOID: apply(x, [](real a) { return a * (1 - a); }); break;                                  // N6
        case TANH: apply(x, [](real a) { return 1 - a * a; }); break;                                       // N7
        case RELU: apply(x, [](real a) { return real(a > 0); }); break;                                     // N8
        case LEAKY_RELU: apply(x, [=](real z) { return z > 0 ? real(1) : option; }); break;                 // N9
        case ELU: apply(x, [=](real z) { return z > 0 ? real(1) : option * exp(z); }); break;
        case GELU: apply(x, [](real z) { return normal_cdf(z) + z * (exp(real(-0.5) * z * z) * DENSITY); }); break;
        case GELU_TANH: apply(x, [](real z) { return gelu_tanh_slope(z); }); break;
        case SILU: apply(x, [](real z) { return silu_slope(z); }); break;
        case SOFTPLUS: apply(x, [](real z) { return sigmoid(z); }); break;
        case EXP: break;  // a is its own derivative
    }
}
