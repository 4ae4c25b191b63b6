// Embeddings, see deepnotes/equations/embeddings.py: the vectors of categories, and the gradients of the tables.

#include "common.cuh"

// A = the columns of X without a table, and the vectors of the others. `outputs` has four numbers for each of the n
// outputs: its column of X; and, if that has a table, the index in θ of this output for category 0, the distance to that
// for the next category, and the number of categories. The last two are 0 for columns without a table. The indices of
// categories were checked before; any other number is read as category 0, so that no other memory is accessed.
extern "C" __global__ void __launch_bounds__(BLOCK) embed(
    const real* X, const real* theta, const long long* outputs, real* A, int inputs, int n, long long m
) {
    const Tile<1> tile(n);
    const long long step = gridDim.y * static_cast<long long>(tile.height);
    for (long long i = blockIdx.x * static_cast<long long>(tile.width) + tile.x; i < n;
         i += gridDim.x * static_cast<long long>(tile.width)) {
        const long long column = outputs[4 * i], first = outputs[4 * i + 1], apart = outputs[4 * i + 2];
        const real categories = outputs[4 * i + 3];
        for (long long j = blockIdx.y * static_cast<long long>(tile.height) + tile.y; j < m; j += step) {
            const real x = X[j * inputs + column];
            const long long category = x >= 0 && x < categories ? static_cast<long long>(x) : 0;
            A[j * n + i] = apart ? theta[first + category * apart] : x;
        }
    }
}

// partial[c * p + i] = scale * the sum of the derivatives by number i of the p numbers in all tables, over the samples of
// chunk c with its category, in order. `tables` has four numbers for each table: its first number, its column of X, the
// size of its vectors, and the first of the outputs that they are; and p after the last one.
extern "C" __global__ void __launch_bounds__(BLOCK) embedding_gradient(
    const real* D, const real* X, const long long* tables, real* partial, int inputs, int n, long long p, long long m,
    long long rows, long long chunks, real scale
) {
    const long long step = gridDim.x * static_cast<long long>(blockDim.x);
    for (long long at = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; at < p * chunks; at += step) {
        const long long chunk = at / p, i = at - chunk * p;
        const long long* table = tables;
        while (i >= table[4]) table += 4;
        const long long category = (i - table[0]) / table[2];
        const real wanted = category;
        const real* x = X + table[1];
        const real* d = D + table[3] + i - table[0] - category * table[2];
        const long long end = (chunk + 1) * rows < m ? (chunk + 1) * rows : m;
        real sum = 0;
#pragma unroll 8  // several indices are on their way at a time
        for (long long j = chunk * rows; j < end; j++)
            if (x[j * inputs] == wanted) sum += d[j * n];
        partial[at] = scale * sum;
    }
}
