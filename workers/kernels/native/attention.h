// Attention over paged KV, straight on the arena's pages. Here only: one KV head, some query vectors, one range of keys.
//
// Online softmax (Milakov and Gimelshein, arXiv:1805.02867) over 16 keys at a time, in splits of 256 keys that begin at
// multiples of 256 (flash-decoding's split, of fixed length): what a query gets depends on its own position and on
// nothing else in the batch, on no chunk size and no thread.
#pragma once
#include "simd.h"

constexpr int SPLIT = 256;    // keys
constexpr int MAX_DIM = 256;  // of a head

// One layer's pages, as one KV head sees them.
struct Keys {
    const uint8_t* base;    // K of the head at token 0 of cell 0
    int64_t cell, value;    // bytes from cell to cell; from K to V
    const int64_t* table;   // cells of the sequence
    int page_tokens, dim;
    bool wide;              // float32, else bfloat16

    const uint8_t* at(int64_t key) const {
        return base + table[key / page_tokens] * cell + (key % page_tokens) * dim * (wide ? 4 : 2);
    }
    vf load16(const uint8_t* p, int from) const {
        return wide ? load((const float*)p + from) : bf16_to_float((const uint16_t*)p + from);
    }
};

// What a query vector has seen: the largest score, the sum of exp(score - largest), and the values weighted by it.
struct Seen {
    float most, total;
    float values[MAX_DIM];
    void clear(int dim) {
        most = -INFINITY;
        total = 0;
        std::memset(values, 0, dim * sizeof(float));
    }
};

// Adds what was seen of the next split.
static inline void merge(Seen& into, const Seen& next, int dim) {
    const float most = into.most > next.most ? into.most : next.most;
    const float keep = exp(set1(into.most - most))[0], add = exp(set1(next.most - most))[0];
    into.most = most;
    into.total = into.total * keep + next.total * add;
    for (int d = 0; d < dim; d += LANES)
        store(into.values + d, fma(load(next.values + d), set1(add), load(into.values + d) * set1(keep)));
}

INLINE void transpose16(vf* row) {
    // Four rounds of interleaving halves: after them, lane i of row j is what lane j of row i was.
    const vi low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const vi high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    vf next[LANES];
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            next[2 * i] = __builtin_shuffle(row[i], row[i + 8], low);
            next[2 * i + 1] = __builtin_shuffle(row[i], row[i + 8], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) row[i] = next[i];
    }
}

// Scores of N queries against 16 keys: keys is [dim][16].
template <int N>
INLINE void scores(const float* const* queries, const float* keys, int dim, vf* out) {
    vf even[N], odd[N];
    for (int i = 0; i < N; i++) even[i] = odd[i] = vf{};
    for (int d = 0; d < dim; d += 2) {
        const vf k = load(keys + d * LANES), l = load(keys + (d + 1) * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) {
            even[i] = fma(set1(queries[i][d]), k, even[i]);
            odd[i] = fma(set1(queries[i][d + 1]), l, odd[i]);
        }
    }
    for (int i = 0; i < N; i++) out[i] = even[i] + odd[i];
}

template <int DIM>
INLINE void add_values(Seen& seen, float keep, const float* weights, const float* values, int dim) {
    constexpr int AT_ONCE = DIM ? DIM / LANES : 4;
    for (int from = 0; from < (DIM ? 1 : dim); from += DIM ? DIM : AT_ONCE * LANES) {
        const int parts = DIM ? AT_ONCE : (dim - from < AT_ONCE * LANES ? (dim - from) / LANES : AT_ONCE);
        vf sums[AT_ONCE];
#pragma GCC unroll 8
        for (int p = 0; p < parts; p++) sums[p] = load(seen.values + from + p * LANES) * set1(keep);
        for (int key = 0; key < LANES; key++)
#pragma GCC unroll 8
            for (int p = 0; p < parts; p++)
                sums[p] = fma(set1(weights[key]), load(values + key * dim + from + p * LANES), sums[p]);
#pragma GCC unroll 8
        for (int p = 0; p < parts; p++) store(seen.values + from + p * LANES, sums[p]);
    }
}

// Query i, of position positions[i], against keys [first, last) and at most its own position; first is a multiple of 16.
// Queries are scaled. `seen` is added to.
static void attend(
    const Keys& keys, const float* const* queries, const int64_t* positions, int count, int64_t first, int64_t last,
    Seen* seen) {
    const int dim = keys.dim;
    alignas(64) float k[MAX_DIM * LANES], v[LANES * MAX_DIM];
    for (int64_t begin = first; begin < last; begin += LANES) {
        // What is behind the end is read with weight zero, so it must be finite: the last key stands in.
        const uint8_t* where[LANES];
        for (int i = 0; i < LANES; i++) where[i] = keys.at(begin + i < last ? begin + i : last - 1);
        for (int d = 0; d < dim; d += LANES) {
            vf rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = keys.load16(where[i], d);
            transpose16(rows);
            for (int i = 0; i < LANES; i++) store(k + (d + i) * LANES, rows[i]);
        }
        for (int i = 0; i < LANES; i++)
            for (int d = 0; d < dim; d += LANES) store(v + i * dim + d, keys.load16(where[i] + keys.value, d));
        const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        for (int at = 0; at < count;) {
            vf found[4];
            const int n = count - at >= 4 ? 4 : 1;
            if (n == 4) scores<4>(queries + at, k, dim, found);
            else scores<1>(queries + at, k, dim, found);
            for (int i = 0; i < n; i++, at++) {
                const int64_t ahead = (positions[at] + 1 < last ? positions[at] + 1 : last) - begin;
                if (ahead <= 0) continue;
                const vf masked = lane < (int32_t)(ahead < LANES ? ahead : LANES) ? found[i] : set1(-INFINITY);
                Seen& s = seen[at];
                const float best = largest(masked), most = best > s.most ? best : s.most;
                const float keep = exp(set1(s.most - most))[0];
                const vf weights = exp(masked - set1(most));
                alignas(64) float w[LANES];
                store(w, weights);
                s.most = most;
                s.total = s.total * keep + sum(weights);
                if (dim == 64) add_values<64>(s, keep, w, v, dim);
                else if (dim == 128) add_values<128>(s, keep, w, v, dim);
                else add_values<0>(s, keep, w, v, dim);
            }
        }
    }
}
