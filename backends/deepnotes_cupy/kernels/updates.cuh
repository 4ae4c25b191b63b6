// The update of all parameters in one pass, for any optimizer.

#include "common.cuh"

// θ ← θ - share θ for weights (equation weight_decay), then an optimizer's update: step(i, w, x) updates w, elements
// of θ from i on; x holds the same elements of the clipped gradient.
template <class Step>
struct Update {
    real* theta;
    const real* g;
    long long decaying;
    real clip, share;
    Step step;

    template <int V>
    __device__ void operator()(Count<V>, long long i) const {
        real w[V], x[V];
        load(theta + i, w);
        load(g + i, x);
#pragma unroll
        for (int v = 0; v < V; v++) {
            x[v] *= clip;
            if (share != 0 && i + v < decaying) w[v] -= share * w[v];
        }
        step(i, w, x);
        store(theta + i, w);
    }
};

template <class Step>
__device__ inline void update_all(
    real* theta, const real* g, long long p, long long decaying, const Control* control, real share, bool packs,
    const Step& step
) {
    if (control->stopped) return;
    const Update<Step> update{theta, g, decaying, real(control->clip), share, step};
    flat(p, packs && aligned(theta) && aligned(g), update);
}
