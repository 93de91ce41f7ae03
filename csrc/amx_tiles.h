// The state of AMX's tiles that all products here use; included by files that have selected AMX, with SPARSECSE_ISA
// defined.
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

}  // namespace sparsecse::SPARSECSE_ISA
