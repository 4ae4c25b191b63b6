// Whether an update may be made, and the update of each optimizer, element by element; see
// deepnotes/equations/optimizers.py. EagerProgram.train decides in the same way.

#include "common.cuh"

enum Scalar { LEARNING_RATE, RATE, EPSILON, SHARE };  // the columns of the table of scalars of the optimizers below

// Decide whether an update may be made on the device, given the sum of squares and the largest magnitude of the gradient,
// the sum of the m samples' losses, and the learning rate. If so, add the batch to the sums of `control`, count the
// update, and set the clipping factor. clip_norm is 0 without clipping. No update overflows if the learning rate times
// max(norm, 1) is below `safe_step`, and the norm after clipping is below `safe_norm`, 1e-4 * sqrt(safe_step).
__device__ inline void decide(
    Control* control, double square, double largest, double loss, long long m, double learning_rate, double clip_norm,
    double safe_step, double safe_norm
) {
    const double cost = real(loss / m);
    const double norm = isfinite(square) ? sqrt(square) : largest;
    control->cost = cost;
    control->norm = norm;
    if (!isfinite(cost) || !isfinite(norm)) {
        control->stopped = 1;
        return;
    }
    // The sum of squares can overflow; it can also underflow, although the norm is above clip_norm.
    const bool norm_is_known = isfinite(square) && (square > 1e-280 || !(clip_norm > 0 && largest > clip_norm));
    const double clipped = clip_norm > 0 && norm > clip_norm ? clip_norm : norm;  // an optimizer may square it
    const bool step_is_safe = learning_rate * (norm > 1 ? norm : 1.0) < safe_step;
    if (!norm_is_known || !step_is_safe || !(clipped < safe_norm)) {
        control->stopped = 2;
        return;
    }
    control->clip = clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1.0;
    control->loss_sum += cost * m;
    control->weight_sum += m;
    control->step += 1;
    control->updates += 1;
}

// θ ← θ - rate g (equation gradient_descent).
struct Descent {
    real rate;

    template <int V>
    __device__ void operator()(long long, real (&w)[V], real (&x)[V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) w[i] -= rate * x[i];
    }
};

// v ← momentum v + g, θ ← θ - rate v, or θ - rate (g + momentum v) for Nesterov momentum (equation momentum).
struct Momentum {
    real* velocity;
    real rate, momentum;
    int nesterov;

    template <int V>
    __device__ void operator()(long long at, real (&w)[V], real (&x)[V]) const {
        real v[V];
        load(velocity + at, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = momentum * v[i] + x[i];
            w[i] -= rate * (nesterov ? x[i] + momentum * v[i] : v[i]);
        }
        store(velocity + at, v);
    }
};

// s ← rho s + (1 - rho) g², θ ← θ - rate g / (sqrt s + epsilon) (equation rmsprop); `rest` is 1 - rho.
struct RmsProp {
    real* square;
    real rate, epsilon, rho, rest;

    template <int V>
    __device__ void operator()(long long at, real (&w)[V], real (&x)[V]) const {
        real s[V];
        load(square + at, s);
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[i] = rho * s[i] + rest * (x[i] * x[i]);
            w[i] -= rate * (x[i] / (sqrt(s[i]) + epsilon));
        }
        store(square + at, s);
    }
};

// m ← beta1 m + g, v ← beta2 v + g², θ ← θ - rate m / (sqrt v + epsilon); rate and epsilon include the bias corrections
// (equation adam; AdamW if share is not 0).
struct Adam {
    real *first, *second;
    real rate, epsilon, beta1, beta2;

    template <int V>
    __device__ void operator()(long long at, real (&w)[V], real (&x)[V]) const {
        real m[V], v[V];
        load(first + at, m);
        load(second + at, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            m[i] = beta1 * m[i] + x[i];
            v[i] = beta2 * v[i] + x[i] * x[i];
            w[i] -= rate * (m[i] / (sqrt(v[i]) + epsilon));
        }
        store(first + at, m);
        store(second + at, v);
    }
};
