// Attention over paged KV, straight on the arena's pages. Here only: one KV head, some query vectors, one range of keys.
//
// Keys are taken in splits of 256 that begin at multiples of 256 (flash-decoding's split, of fixed length), and splits are
// merged by online softmax (Milakov and Gimelshein, arXiv:1805.02867): what a query gets depends on its own position and
// on nothing else in the batch, on no chunk size and no thread.
//
// On pages of bfloat16, queries and weights are rounded to bfloat16 too; products are exact in float32 then, and all that
// is left to agree on is the order of sums. It is what AMX does. Of each 32 terms (numbers of a head, or keys), those at
// even places are summed from zero in their order by fused multiply-adds, those at odd places too, and then
//     sum = sum + (even + odd)
// Denormals are zero, as operands and as results. The tiles that keep to this:
//     attention_amx.h     `tdpbf16ps` computes 16 by 16 such sums
//     attention_dot.h     `vdpbf16ps` is two fused multiply-adds (first the odd place, then the even one), so it is given
//                         two even places of the order above, or two odd ones
//     attention_float.h   fused multiply-adds of floats; and those alone where pages are float32
//
// On pages of int8, each key and each value of a head has a scale. Their numbers are exact in bfloat16, so tiles take them
// as they are: a key's scale multiplies its score, and a value's scale its weight before that is rounded. Keys that were
// written without their bias are made bfloat16 again first.
#pragma once
#include <algorithm>

#include "simd.h"

constexpr int SPLIT = 256;    // keys
constexpr int STRETCH = 32;   // keys that are read at once, for all queries; and the terms of one step of a sum
constexpr int STRETCHES = SPLIT / STRETCH;
constexpr int VECTORS = 128;  // queries at most: so many share the work of reading keys
constexpr int STRIP = 32;     // of those, so many take the way through the caches together
constexpr int MAX_DIM = 256;  // of a head

// Numbers of a head that tiles are given room for.
constexpr int padded(int dim) { return (dim + STRETCH - 1) / STRETCH * STRETCH; }

// What pages hold. In the order of `library.NUMBERS`.
enum class Numbers : int32_t { BFLOAT16, FLOAT32, INT8 };

constexpr int size_of(Numbers numbers) {
    return numbers == Numbers::INT8 ? 1 : numbers == Numbers::BFLOAT16 ? 2 : 4;
}

// One layer's pages, as one KV head sees them.
struct Keys {
    const uint8_t* base;    // K of the head at token 0 of cell 0
    int64_t cell, value;    // bytes from cell to cell; from K to V
    const int64_t* table;   // cells of the sequence
    int page_tokens, dim;
    Numbers numbers;
    const float* bias = nullptr;    // that was taken out of keys of int8 before they were rotated; else null
    const float* angles = nullptr;  // cosines, then sines, of each position: [dim]

    int size() const { return dim * size_of(numbers); }  // bytes of a key, without its scale
    const uint8_t* page(int64_t key) const { return base + table[key / page_tokens] * cell; }
    const uint8_t* at(int64_t key) const { return page(key) + (key % page_tokens) * size(); }
    bool scaled() const { return numbers == Numbers::INT8; }
    // Where the scales of a page's keys are, one float each: behind the numbers of all of them.
    const float* scales(int64_t key) const { return (const float*)(page(key) + (int64_t)page_tokens * size()); }
};

// What a query vector has seen: the largest score, the sum of 2^(score - largest), and the values weighted by it.
struct Seen {
    float most, total;
    alignas(64) float values[MAX_DIM];
    void clear(int dim) {
        most = -INFINITY;
        total = 0;
        std::memset(values, 0, dim * sizeof(float));
    }
};

// While it lives, denormals are zero for the calling thread. What is computed of memory stays between its ends.
class FlushDenormals {
  public:
    FlushDenormals() : before_(_mm_getcsr()) {
        _mm_setcsr(before_ | 0x8040);  // FTZ and DAZ
        asm volatile("" ::: "memory");
    }
    ~FlushDenormals() {
        asm volatile("" ::: "memory");
        _mm_setcsr(before_);
    }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

  private:
    const unsigned before_;
};

// 2^x for x <= 0, to 3e-6 of it; never denormal: below -125 it is that of -125.
INLINE vf exp2_down(vf x) {
    const vf inside = max(x, set1(-125.0f)), magic = set1(12582912.0f), shifted = inside + magic;
    const vf r = inside - (shifted - magic);
    vf p = fma(set1(9.582852865e-3f), r, set1(5.590642492e-2f));
    p = fma(p, r, set1(2.402409862e-1f));
    p = fma(p, r, set1(6.931241934e-1f));
    p = fma(p, r, set1(1.0f));
    return as_float(as_int(p) + (as_int(shifted) << 23));
}

// Adds what was seen of the next split. What has the larger score stays as it is.
static inline void merge(Seen& into, const Seen& next, int dim) {
    const bool grown = next.most > into.most;
    const float by = exp2_down(set1(grown ? into.most - next.most : next.most - into.most))[0];
    const float *larger = grown ? next.values : into.values, *smaller = grown ? into.values : next.values;
    into.total = grown ? std::fma(into.total, by, next.total) : std::fma(next.total, by, into.total);
    if (grown) into.most = next.most;
    for (int d = 0; d < dim; d += LANES) store(into.values + d, fma(load(smaller + d), set1(by), load(larger + d)));
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

// By what the keys and values of a split are multiplied, where they are int8.
struct Scales {
    alignas(64) float keys[SPLIT], values[SPLIT];

    static void fetch(const Keys& keys, int64_t first, int64_t last) {
        each_page(keys, first, last, [&](const float* of_keys, int64_t, int64_t) {
            __builtin_prefetch(of_keys);
            __builtin_prefetch((const uint8_t*)of_keys + keys.value);
        });
    }
    // What is behind the last one is used with weight zero, so it must be finite.
    void find(const Keys& from, int64_t first, int64_t last) {
        each_page(from, first, last, [&](const float* of_keys, int64_t at, int64_t count) {
            std::memcpy(keys + at, of_keys, count * sizeof(float));
            std::memcpy(values + at, (const uint8_t*)of_keys + from.value, count * sizeof(float));
        });
        for (int64_t at = last - first; at % STRETCH; at++) keys[at] = values[at] = 0;
    }

  private:
    // `f(scale of the first key, its place in the split, how many)` for the part of each page.
    template <class F>
    static void each_page(const Keys& keys, int64_t first, int64_t last, const F& f) {
        for (int64_t key = first, count; key < last; key += count) {
            const int64_t offset = key % keys.page_tokens, left = keys.page_tokens - offset;
            count = left < last - key ? left : last - key;
            f(keys.scales(key) + offset, key - first, count);
        }
    }
};

// Keys of int8 with their bias again, rounded to bfloat16: how tiles see keys of models that have one.
struct Restored {
    alignas(64) uint16_t rows[STRETCH][MAX_DIM];
    Stretch where;

    Restored() {
        for (int i = 0; i < STRETCH; i++) where.of[i] = (const uint8_t*)rows[i];
    }
    // `stretch` begins at key `first`. What is read behind the ends of bias and angles is not used.
    void find(const Keys& keys, const Stretch& stretch, int64_t first, const float* scales) {
        const int half = keys.dim / 2;
        const float *x = keys.bias, *y = x + half;
        for (int i = 0; i < STRETCH; i++) {
            const float *cosines = keys.angles + (first + i) * keys.dim, *sines = cosines + half;
            alignas(64) float rotated[MAX_DIM + LANES];
            for (int d = 0; d < half; d += LANES)
                store(rotated + d, load(x + d) * load(cosines + d) - load(y + d) * load(sines + d));
            for (int d = 0; d < half; d += LANES)
                store(rotated + half + d, load(x + d) * load(sines + d) + load(y + d) * load(cosines + d));
            const int8_t* numbers = (const int8_t*)stretch.of[i];
            for (int d = 0; d < keys.dim; d += LANES)
                float_to_bf16(rows[i] + d, fma(int8_to_float(numbers + d), set1(scales[i]), load(rotated + d)));
        }
    }
};

// Queries of a strip that see anything of a stretch are those from `begin` on; each sees all of the stretches before.
struct Strip {
    int count, stretches;  // queries; stretches that the last of them sees
    int begin[STRETCHES];
    // `positions` of the queries, in their order, and the keys from `first` on, of which some `keys` are taken.
    Strip(const int64_t* positions, int count, int64_t first, int64_t keys) : count(count) {
        int64_t reach = positions[count - 1] + 1 - first;
        if (reach > keys) reach = keys;
        stretches = reach > 0 ? (int)(reach + STRETCH - 1) / STRETCH : 0;
        for (int s = 0, at = 0; s < stretches; s++) {
            while (positions[at] < first + s * STRETCH) at++;
            begin[s] = at;
        }
    }
    // `f(n, from)` for as few and as even tiles of at most MOST queries as can be; n is a constant.
    template <int MOST, class F>
    void each_tile(int stretch, const F& f) const {
        for (int from = begin[stretch], n; from < count; from += n) {
            const int left = count - from, tiles = (left + MOST - 1) / MOST;
            n = (left + tiles - 1) / tiles;
            with_constant<MOST>(n, [&](auto N) { f(N, from); });
        }
    }
};

// Scores of the first `keys` of a split become weights, and those of the others up to `end` nothing. `scales` are there
// where keys and values have them (SCALED).
template <class Tiles, bool SCALED>
static void weigh(
    float* scores, int keys, int end, const Scales& scales, typename Tiles::Number* weights, Seen& seen) {
    const vf nothing = set1(-INFINITY);
    const auto score = [&](int i) {
        return i + LANES <= keys ? load(scores + i) : where_less(lane_numbers(), set1_int(keys - i), load(scores + i), nothing);
    };
    vf most = nothing, total{};
    for (int i = 0; i < keys; i += LANES) {
        if constexpr (SCALED) store(scores + i, load(scores + i) * load(scales.keys + i));
        most = max(score(i), most);
    }
    seen.most = largest(most);
    const vf by = set1(seen.most);
    const auto put = [&](int at, vf low, vf high) {
        total += low;
        total += high;
        if constexpr (SCALED) low = low * load(scales.values + at), high = high * load(scales.values + at + LANES);
        Tiles::put_weights(low, high, weights + at);
    };
    int i = 0;
    for (; i + STRETCH <= keys; i += STRETCH)
        put(i, exp2_down(load(scores + i) - by), exp2_down(load(scores + i + LANES) - by));
    for (; i < end; i += STRETCH) {
        const auto weight = [&](int at) {
            return where_less(lane_numbers(), set1_int(keys - at), exp2_down(load(scores + at) - by), vf{});
        };
        put(i, weight(i), weight(i + LANES));
    }
    seen.total = sum(total);
}

// Numbers that a thread needs room for, of 4 bytes: one split's keys and values.
constexpr size_t split_room(int dim) { return (size_t)SPLIT * (padded(dim) + dim); }

// Query i, of position positions[i], against keys [first, last) of one split and at most its own position. Queries are
// as `Tiles::put_query` leaves them, in the order of their positions. `seen` of those that see any is overwritten.
template <class Tiles>
static __attribute__((noinline)) void attend(
    const Keys& keys, const typename Tiles::Number* queries, const int64_t* positions, int count, int64_t first,
    int64_t last, typename Tiles::Number* room, Seen* seen) {
    using Number = typename Tiles::Number;
    const int dim = keys.dim, width = padded(dim), stretches = (int)(last - first + STRETCH - 1) / STRETCH;
    Number* const values = room + (size_t)SPLIT * width;
    alignas(64) float scores[STRIP][SPLIT];
    alignas(64) Number weights[STRIP][SPLIT];
    Stretch where[STRETCHES];
    Scales scales;
    Restored restored;
    if (keys.scaled()) Scales::fetch(keys, first, last);
    // What one strip alone reads is made ready stretch by stretch, in the same place: it stays in the first cache.
    const bool alone = count <= STRIP;
    const auto keys_of = [&](int s) { return room + (alone ? 0 : (size_t)s * STRETCH * width); };
    const auto values_of = [&](int s) { return values + (alone && !Tiles::AT_ONCE ? 0 : (size_t)s * STRETCH * dim); };
    // While keys are made ready, the next ones and their values are on their way.
    for (int s = 0; s < stretches; s++) {
        where[s].find(keys, first + s * STRETCH, last);
        where[s].fetch(keys);
    }
    Keys plain = keys;  // as tiles see them
    if (keys.scaled()) scales.find(keys, first, last);
    if (keys.bias) plain.numbers = Numbers::BFLOAT16;
    const Strip only(positions, alone ? count : 1, first, last - first);
    for (int s = 0; s < stretches; s++) {
        where[s].fetch(keys, keys.value);
        if (keys.bias) {
            restored.find(keys, where[s], first + s * STRETCH, scales.keys + s * STRETCH);
            Tiles::put_keys(plain, restored.where, keys_of(s));
        } else Tiles::put_keys(keys, where[s], keys_of(s));
        if (alone) Tiles::score(only, s, queries, width, keys_of(s), dim, scores);
    }
    if (keys.bias) std::fill(scales.keys, scales.keys + SPLIT, 1.0f);
    const auto weigh_by = keys.scaled() ? weigh<Tiles, true> : weigh<Tiles, false>;
    if (!alone || Tiles::AT_ONCE)
        for (int s = 0; s < stretches; s++) Tiles::put_values(keys, where[s], values_of(s));
    for (int from = 0; from < count; from += STRIP) {
        const int n = count - from < STRIP ? count - from : STRIP;
        const Strip strip(positions + from, n, first, last - first);
        if (!strip.stretches) continue;
        for (int s = 0; !alone && s < strip.stretches; s++)
            Tiles::score(strip, s, queries + (size_t)from * width, width, keys_of(s), dim, scores);
        for (int i = 0; i < n; i++) {
            const int64_t reach = positions[from + i] < last ? positions[from + i] + 1 : last;
            if (reach > first)
                weigh_by(
                    scores[i], (int)(reach - first), strip.stretches * STRETCH, scales, weights[i], seen[from + i]);
            else std::memset(weights[i], 0, sizeof(weights[i]));
        }
        if constexpr (Tiles::AT_ONCE) Tiles::add_values(strip, weights, values, dim, seen + from);
        else {
            for (int i = 0; i < n; i++) std::memset(seen[from + i].values, 0, dim * sizeof(float));
            for (int s = 0; s < strip.stretches; s++) {
                if (alone) Tiles::put_values(keys, where[s], values_of(s));
                Tiles::add_values(strip, s, weights, values_of(s), dim, seen + from);
            }
        }
    }
}
