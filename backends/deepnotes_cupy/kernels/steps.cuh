// Whether an update may be made. EagerProgram.train decides in the same way.

#include "common.cuh"

// Add the gradient of the penalties on a weight w: l2 w (l2_gradient), and l1 times its sign (l1_gradient).
__device__ inline real add_penalties(real g, real w, real l1, real l2) {
    if (l2 != 0) g += l2 * w;
    if (l1 != 0) g += l1 * sign(w);
    return g;
}

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
