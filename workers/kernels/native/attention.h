// Attention over paged KV, straight on the arena's pages. Here only: one KV head, some query vectors, one range of keys.
//
// Keys are taken in splits of 256 that begin at multiples of 256 (flash-decoding's split, of fixed length), and splits are
// merged by online softmax (Milakov and Gimelshein, arXiv:1805.02867): what a query gets depends on its own position and
// on nothing else in the batch, on no chunk size and no thread.
#pragma once
#include "simd.h"

constexpr int SPLIT = 256;    // keys
constexpr int STRETCH = 32;   // keys that are read at once, for all queries
constexpr int VECTORS = 64;   // queries at most
constexpr int MAX_DIM = 256;  // of a head
// Of a tile, so that its sums fill the registers: queries, and vectors of their values.
constexpr int QUERIES = WIDE ? 6 : 2, VALUES = WIDE ? 4 : 2;

// One layer's pages, as one KV head sees them.
struct Keys {
    const uint8_t* base;    // K of the head at token 0 of cell 0
    int64_t cell, value;    // bytes from cell to cell; from K to V
    const int64_t* table;   // cells of the sequence
    int page_tokens, dim;
    bool wide;              // float32, else bfloat16

    int size() const { return dim * (wide ? 4 : 2); }  // bytes of a key
    const uint8_t* at(int64_t key) const {
        return base + table[key / page_tokens] * cell + (key % page_tokens) * size();
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

// Where 32 keys or values lie. What is behind the end is used with weight zero, so it must be finite: the last one
// stands in.
struct Stretch {
    const uint8_t* of[STRETCH];
    void find(const Keys& keys, int64_t begin, int64_t last) {
        int left = 0;  // keys of the page
        for (int i = 0; i < STRETCH; i++) {
            const int64_t key = begin + i;
            if (key >= last) of[i] = of[i - 1];
            else if (left) of[i] = of[i - 1] + keys.size(), left--;
            else of[i] = keys.at(key), left = keys.page_tokens - 1 - (int)(key % keys.page_tokens);
        }
    }
    // The pages of a sequence lie anywhere, so the processor cannot guess the next.
    void fetch(const Keys& keys, int64_t offset = 0) const {
        for (int i = 0; i < STRETCH; i++)
            for (int byte = 0; byte < keys.size(); byte += 64) __builtin_prefetch(of[i] + offset + byte);
    }
};

// Keys as floats, [dim][32]. Those of bfloat16 are turned as pairs, which takes half as many shuffles.
static void read_keys(const Keys& keys, const Stretch& stretch, float* out) {
    for (int half = 0; half < STRETCH; half += LANES) {
        vf rows[LANES];
        const auto put = [&](int d, vf value) { store(out + d * STRETCH + half, value); };
        int d = 0;
        for (; !keys.wide && d + 2 * LANES <= keys.dim; d += 2 * LANES) {
            for (int i = 0; i < LANES; i++) rows[i] = load((const float*)(stretch.of[half + i] + 2 * d));
            transpose(rows);
            for (int i = 0; i < LANES; i++) put(d + 2 * i, even_bf16(rows[i])), put(d + 2 * i + 1, odd_bf16(rows[i]));
        }
        for (; d < keys.dim; d += LANES) {
            for (int i = 0; i < LANES; i++) rows[i] = keys.load16(stretch.of[half + i], d);
            transpose(rows);
            for (int i = 0; i < LANES; i++) put(d + i, rows[i]);
        }
    }
}

// Values as floats, [32][dim].
static void read_values(const Keys& keys, const Stretch& stretch, float* out) {
    for (int i = 0; i < STRETCH; i++)
        for (int d = 0; d < keys.dim; d += LANES) store(out + i * keys.dim + d, keys.load16(stretch.of[i] + keys.value, d));
}

// Scores of N queries against 32 keys.
template <int N>
INLINE void score_tile(const float* const* queries, const float* keys, int dim, float (*out)[SPLIT], int at) {
    vf low[N], high[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) low[i] = high[i] = vf{};
    for (int d = 0; d < dim; d++) {
        const vf k = load(keys + d * STRETCH), l = load(keys + d * STRETCH + LANES);
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
            const vf q = set1(queries[i][d]);
            low[i] = fma(q, k, low[i]);
            high[i] = fma(q, l, high[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
        store(out[i] + at, low[i]);
        store(out[i] + at + LANES, high[i]);
    }
}

// Adds 32 values, weighted, to what N queries have seen: P vectors of them.
template <int N, int P>
INLINE void value_tile(Seen* seen, const float* values, int dim, int from, const float (*weights)[SPLIT], int at) {
    vf sums[N][P];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[i][p] = load(seen[i].values + from + p * LANES);
    for (int key = 0; key < STRETCH; key++) {
        vf v[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) v[p] = load(values + key * dim + from + p * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
            const vf w = set1(weights[i][at + key]);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) sums[i][p] = fma(w, v[p], sums[i][p]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; i++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) store(seen[i].values + from + p * LANES, sums[i][p]);
}

// Scores of `ahead` keys become weights, up to the end of their stretch.
static void weigh(float* scores, int64_t ahead, Seen& seen) {
    const vi lane = lane_numbers();
    const vf nothing = set1(-INFINITY);
    const int keys = (int)ahead, end = (keys + STRETCH - 1) / STRETCH * STRETCH;
    vf most = nothing, total{};
    for (int i = 0; i < end; i += LANES) {
        const vf score = where_less(lane, set1_int(keys - i), load(scores + i), nothing);
        store(scores + i, score);
        most = max(score, most);
    }
    seen.most = largest(most);
    for (int i = 0; i < end; i += LANES) {
        const vf weight = exp(load(scores + i) - set1(seen.most));
        store(scores + i, weight);
        total += weight;
    }
    seen.total = sum(total);
}

// Query i, of position positions[i], against keys [first, last) of one split and at most its own position. Queries are
// scaled, and in the order of their positions; `seen` is overwritten.
static void attend(
    const Keys& keys, const float* const* queries, const int64_t* positions, int count, int64_t first, int64_t last,
    Seen* seen) {
    const int dim = keys.dim;
    alignas(64) float read[MAX_DIM * STRETCH], scores[VECTORS][SPLIT];
    const auto reaches = [&](int i, int64_t begin) { return positions[i] >= begin; };
    const auto each_tile = [&](int64_t begin, const auto& f) {
        int from = 0;
        while (from < count && !reaches(from, begin)) from++;
        for (int n; from < count; from += n) {
            const int left = count - from, tiles = (left + QUERIES - 1) / QUERIES;
            n = (left + tiles - 1) / tiles;
            with_constant<QUERIES>(n, [&](auto N) { f(N, from); });
        }
    };
    Stretch keys_of[SPLIT / STRETCH];
    const auto each_stretch = [&](const auto& f) {
        for (int64_t begin = first; begin < last; begin += STRETCH) f(keys_of[(begin - first) / STRETCH], begin);
    };
    // While keys are computed with, the next ones and their values are on their way.
    each_stretch([&](Stretch& stretch, int64_t begin) {
        stretch.find(keys, begin, last);
        stretch.fetch(keys);
    });
    each_stretch([&](const Stretch& stretch, int64_t begin) {
        stretch.fetch(keys, keys.value);
        read_keys(keys, stretch, read);
        each_tile(begin, [&](auto N, int i) {
            score_tile<N>(queries + i, read, dim, scores + i, (int)(begin - first));
        });
    });
    for (int i = 0; i < count; i++) {
        seen[i].clear(dim);
        if (reaches(i, first)) weigh(scores[i], (positions[i] < last ? positions[i] + 1 : last) - first, seen[i]);
    }
    each_stretch([&](const Stretch& stretch, int64_t begin) {
        read_values(keys, stretch, read);
        each_tile(begin, [&](auto N, int i) {
            int d = 0;
            for (; d + VALUES * LANES <= dim; d += VALUES * LANES)
                value_tile<N, VALUES>(seen + i, read, dim, d, scores + i, (int)(begin - first));
            for (; d < dim; d += LANES)
                value_tile<N, 1>(seen + i, read, dim, d, scores + i, (int)(begin - first));
        });
    });
}
