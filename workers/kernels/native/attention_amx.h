// Attention by AMX: 16 queries by 16 keys, or by 16 numbers of their values, 32 terms an instruction. Here only: tiles, in
// the order of sums that `attention.h` defines, which is theirs.
#pragma once
#include "amx.h"
#include "attention_bf16.h"

#if defined(__AMX_BF16__)
struct AmxTiles : PairTiles<false> {
    static constexpr const char* NAME = "AMX";
    static constexpr int ROWS = 16;  // of a tile
    static constexpr bool AT_ONCE = true;  // sums of values stay in their tiles for all of a split

    static bool allowed() { return Amx::allowed(); }

    // Tiles 0 to 3 are sums, 4 and 5 queries or weights, 6 and 7 keys or values.
    struct Use : Amx::Use {
        Use() : Amx::Use(config()) {}
        static Amx::Config config() {
            Amx::Config config;
            for (int i = 0; i < 8; i++) config.tile(i, ROWS, 64);
            return config;
        }
    };

    // The compiler does not know that tiles are loaded from memory and stored into it.
    static void settled() { asm volatile("" ::: "memory"); }

    static void clear_sums() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }

    // TWO tiles of queries, else one, by a stretch of keys.
    template <bool TWO>
    static void score_rows(const uint16_t* queries, int width, const uint16_t* keys, float* out) {
        clear_sums();
        for (int d = 0; d < width; d += STRETCH, keys += 2 * TILE_NUMBERS) {
            _tile_loadd(6, keys, 64);
            _tile_loadd(7, keys + TILE_NUMBERS, 64);
            _tile_loadd(4, queries + d, width * 2);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (!TWO) continue;
            _tile_loadd(5, queries + ROWS * width + d, width * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, out, SPLIT * 4);
        _tile_stored(1, out + LANES, SPLIT * 4);
        if constexpr (!TWO) return;
        _tile_stored(2, out + ROWS * SPLIT, SPLIT * 4);
        _tile_stored(3, out + ROWS * SPLIT + LANES, SPLIT * 4);
    }

    // TWO tiles of weights, BOTH of values; else one. `out`: [rows][MAX_DIM].
    template <bool TWO, bool BOTH>
    static void add_rows(const uint16_t* weights, const uint16_t* values, int dim, int stretches, float* out) {
        clear_sums();
        for (int s = 0; s < stretches; s++, values += STRETCH * dim, weights += STRETCH) {
            _tile_loadd(4, weights, SPLIT * 2);
            _tile_loadd(6, values, 64);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (BOTH) _tile_loadd(7, values + TILE_NUMBERS, 64);
            if constexpr (BOTH) _tile_dpbf16ps(1, 4, 7);
            if constexpr (!TWO) continue;
            _tile_loadd(5, weights + ROWS * SPLIT, SPLIT * 2);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (BOTH) _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, out, MAX_DIM * 4);
        if constexpr (BOTH) _tile_stored(1, out + LANES, MAX_DIM * 4);
        if constexpr (!TWO) return;
        _tile_stored(2, out + ROWS * MAX_DIM, MAX_DIM * 4);
        if constexpr (BOTH) _tile_stored(3, out + ROWS * MAX_DIM + LANES, MAX_DIM * 4);
    }

    // Rows behind the last query are computed with what lies there, and read by nobody.
    static void score(
        const Strip& strip, int stretch, const uint16_t* queries, int width, const uint16_t* keys, int,
        float (*out)[SPLIT]) {
        settled();
        (strip.count > ROWS ? score_rows<true> : score_rows<false>)(queries, width, keys, out[0] + stretch * STRETCH);
        settled();
    }
    static void add_values(
        const Strip& strip, const uint16_t (*weights)[SPLIT], const uint16_t* values, int dim, Seen* seen) {
        alignas(64) float found[STRIP][MAX_DIM];
        const bool two = strip.count > ROWS;
        settled();
        for (int d = 0; d < dim; d += 2 * LANES) {
            const uint16_t* from = values + (size_t)d * STRETCH;
            const bool both = d + LANES < dim;
            const auto add = two ? both ? add_rows<true, true> : add_rows<true, false>
                                 : both ? add_rows<false, true> : add_rows<false, false>;
            add(weights[0], from, dim, strip.stretches, found[0] + d);
        }
        settled();
        for (int i = 0; i < strip.count; i++) std::memcpy(seen[i].values, found[i], dim * sizeof(float));
    }
};

#endif
