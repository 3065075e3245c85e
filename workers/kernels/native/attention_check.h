// Whether this processor's own instructions for bfloat16 give the bits that attention is defined by. Here only: numbers
// that are hard to add up, and the comparison with fused multiply-adds.
//
// Processors agree on these instructions on paper; not each could be tried, and an emulator may follow another paper. So
// every process looks before it trusts them, which takes less than a millisecond: scores and weighted sums over two
// stretches, of numbers near each other, far apart, cancelling, denormal, of denormal products and sums, and of ties.
#pragma once
#include "attention_amx.h"
#include "attention_dot.h"
#include "attention_float.h"

#if defined(__AMX_BF16__)
using OwnTiles = AmxTiles;
#elif defined(__AVX512BF16__)
using OwnTiles = DotTiles;
#else
using OwnTiles = FloatTiles<true>;
#endif

class HardNumbers {
  public:
    static constexpr int DIM = 80, KEYS = 2 * STRETCH;  // a stretch of numbers is not full
    float queries[STRIP][DIM], weights[STRIP][KEYS];
    uint16_t page[2][KEYS][DIM];  // keys, values

    explicit HardNumbers(uint32_t seed) : state_(seed) {
        for (int i = 0; i < STRIP; i++) {
            row(i, DIM, [&](int d, uint16_t number) { queries[i][d] = unrounded(number); });
            row(i + 1, KEYS, [&](int k, uint16_t number) { weights[i][k] = unrounded(number); });
        }
        for (auto& half : page)
            for (int k = 0; k < KEYS; k++) row(k + 2, DIM, [&](int d, uint16_t number) { half[k][d] = number; });
    }

  private:
    uint32_t random() {  // Marsaglia's xorshift
        state_ ^= state_ << 13, state_ ^= state_ >> 17, state_ ^= state_ << 5;
        return state_;
    }
    // Products of two stay finite, and so do sums of them.
    uint16_t number(int kind) {
        const uint32_t bits = random();
        const int low = kind == 1 ? 60 : kind == 2 ? 20 : 121, span = kind == 2 ? 150 : kind == 3 ? 27 : 7;
        const int exponent = low + (int)((bits >> 8 & 0xff) % span);  // biased
        const uint32_t mantissas[4] = {0, 1, 0x7f, bits >> 16 & 0x7f}, sign = bits >> 31 << 15;
        if (bits % 32 == 0) return (uint16_t)(sign | (bits >> 16 & 0xff));  // zero, denormal, or just not so
        return (uint16_t)(sign | exponent << 7 | mantissas[bits >> 24 & 3]);
    }
    // Of kinds 4 and 5, what stands at a place and two further is the same number, of one with the other sign: products
    // of such rows cancel each other, mostly.
    template <class Put>
    void row(int which, int count, const Put& put) {
        const int kind = which % 6;
        uint16_t before[4] = {};
        for (int i = 0; i < count; i++) {
            const uint16_t twin = before[i % 4 & 1] ^ (kind == 5 ? 0x8000 : 0), fresh = number(kind);
            put(i, before[i % 4] = kind >= 4 && i % 4 >= 2 && fresh % 8 ? twin : fresh);
        }
    }
    // What rounds to it: just it, a tie, or next to a tie.
    float unrounded(uint16_t number) {
        const uint32_t bits = (uint32_t)number << 16, rests[4] = {0, 0x8000, 0x7fff, 0x8001};
        return as_float(set1_int((int32_t)(bits | rests[random() >> 30])))[0];
    }
    uint32_t state_;
};

// Scores of each query with all keys, and what it sees of all values. Nothing about them depends on the kind of tiles.
struct HardSums {
    alignas(64) float scores[STRIP][SPLIT];
    Seen seen[STRIP];

    template <class Tiles>
    void find(const HardNumbers& hard) {
        using Number = typename Tiles::Number;
        constexpr int DIM = HardNumbers::DIM, WIDTH = padded(DIM), KEYS = HardNumbers::KEYS;
        const FlushDenormals flush;
        [[maybe_unused]] const typename Tiles::Use use;
        alignas(64) Number queries[STRIP][WIDTH], keys[STRETCH * WIDTH], values[KEYS / STRETCH][STRETCH * DIM];
        alignas(64) Number weights[STRIP][SPLIT];
        int64_t positions[STRIP];
        for (int i = 0; i < STRIP; i++) {
            positions[i] = KEYS;
            seen[i].clear(DIM);
            Tiles::put_query(hard.queries[i], DIM, queries[i]);
            for (int k = 0; k < KEYS; k += STRETCH)
                Tiles::put_weights(load(hard.weights[i] + k), load(hard.weights[i] + k + LANES), weights[i] + k);
        }
        const Strip strip(positions, STRIP, 0, KEYS);
        const int64_t first = 0;
        const Keys page{(const uint8_t*)hard.page, 0, sizeof(hard.page[0]), &first, KEYS, DIM, Numbers::BFLOAT16};
        for (int s = 0; s < strip.stretches; s++) {
            Stretch where;
            where.find(page, s * STRETCH, KEYS);
            Tiles::put_keys(page, where, keys);
            Tiles::put_values(page, where, values[s]);
            Tiles::score(strip, s, queries[0], WIDTH, keys, DIM, scores);
            if constexpr (!Tiles::AT_ONCE) Tiles::add_values(strip, s, weights, values[s], DIM, seen);
        }
        if constexpr (Tiles::AT_ONCE) Tiles::add_values(strip, weights, values[0], DIM, seen);
    }

    // All but the sign of a zero, which nothing depends on.
    bool operator==(const HardSums& other) const {
        const auto same = [](const float* mine, const float* others, int count) {
            for (int i = 0; i < count; i += LANES) {
                const vf a = load(mine + i) + set1(0.0f), b = load(others + i) + set1(0.0f);
                if (std::memcmp(&a, &b, sizeof(a)) != 0) return false;
            }
            return true;
        };
        for (int i = 0; i < STRIP; i++)
            if (!same(scores[i], other.scores[i], HardNumbers::KEYS) ||
                !same(seen[i].values, other.seen[i].values, HardNumbers::DIM))
                return false;
        return true;
    }
};

// Whether attention may be computed by `OwnTiles`.
enum class Own { NONE, USED, DIFFERENT };

template <class Tiles>
static __attribute__((noinline)) Own look_at() {
    if constexpr (std::is_same_v<Tiles, FloatTiles<true>>) return Own::NONE;
    else {
        if (!Tiles::allowed()) return Own::NONE;
        static HardSums own, expected;  // too large for a small stack
        for (uint32_t seed = 1; seed <= 4; seed++) {
            const HardNumbers hard(seed);
            own.find<Tiles>(hard);
            expected.find<FloatTiles<true>>(hard);
            if (!(own == expected)) return Own::DIFFERENT;
        }
        return Own::USED;
    }
}

// Looked at once in a process.
static inline Own own_tiles() {
    static const Own found = look_at<OwnTiles>();
    return found;
}
