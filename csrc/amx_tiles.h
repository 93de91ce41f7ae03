// The state of AMX's tiles that all products here use; included by files that have selected AMX, with SPARSECSE_ISA
// defined.
#include <cstddef>
#include <cstdint>

namespace sparsecse::SPARSECSE_ISA {

// Eight tiles of 16 rows x 64 bytes: 0-3 accumulate a 32 x 32 square, 4-5 hold its left operand, 6-7 its right one.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

static inline void configure_tiles(const TileConfig& config) {
  asm volatile("" ::"m"(config));
  _tile_loadconfig(&config);
}

// The accumulators of Rows x Columns tiles, 1 or 2 each way: from `c`, rows `ldc` floats apart, or zero.
template <int Rows, int Columns>
static inline __attribute__((always_inline)) void begin_square(const float* c, std::ptrdiff_t ldc, bool accumulate) {
  if (accumulate) {
    _tile_loadd(0, c, ldc * 4);
    if (Columns == 2) _tile_loadd(1, c + 16, ldc * 4);
    if (Rows == 2) _tile_loadd(2, c + 16 * ldc, ldc * 4);
    if (Rows == 2 && Columns == 2) _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
  } else {
    _tile_zero(0);
    if (Columns == 2) _tile_zero(1);
    if (Rows == 2) _tile_zero(2);
    if (Rows == 2 && Columns == 2) _tile_zero(3);
  }
}

template <int Rows, int Columns>
static inline __attribute__((always_inline)) void end_square(float* c, std::ptrdiff_t ldc) {
  _tile_stored(0, c, ldc * 4);
  if (Columns == 2) _tile_stored(1, c + 16, ldc * 4);
  if (Rows == 2) _tile_stored(2, c + 16 * ldc, ldc * 4);
  if (Rows == 2 && Columns == 2) _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}

}  // namespace sparsecse::SPARSECSE_ISA
