// The update of all parameters in one pass: the template for an optimizer.

#include "common.cuh"

GENERATED
// Elements of θ from i on, and of the slots; `decays` is 1 for weights and 0 for biases. If `decaying` is negative, they are
// statistics, which are not clipped.
struct Update {
    real* theta;
    const real* g;
    long long decaying;
    real clip;
    Part step;

    template <int V>
    __device__ void operator()(Count<V>, long long i) const {
        real w[V], x[V], decays[V];
        load(theta + i, w);
        load(g + i, x);
#pragma unroll
        for (int v = 0; v < V; v++) {
            x[v] *= clip;
            decays[v] = i + v < decaying;
        }
        step(i, w, x, decays);
        store(theta + i, w);
    }
};

// Three blocks have to fit on a multiprocessor: without a number, NVRTC spills registers to fit more.
extern "C" __global__ void __launch_bounds__(BLOCK, 3) update(
    real* theta, const real* g, SLOTS, long long p, long long decaying, const Control* control,
    const double* scalars, OPTIONS
) {
    if (control->stopped) return;
    const double options[] = {OPTION_VALUES};
    real* const slots[] = {SLOT_VALUES};
    bool packs = aligned(theta) && aligned(g);
    for (int i = 0; i < Part::SLOTS; i++) packs = packs && aligned(slots[i]);
    const real clip = decaying < 0 ? 1 : control->clip;
    Update update{theta, g, decaying, clip, Part(options, scalars, slots)};
    flat(p, packs, update);
}
