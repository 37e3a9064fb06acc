/* Statistics of a moving window, and the adaptive filter that is made of them. Knows no MPI: it sees one block of rows
 * and the rows around it. */
#ifndef VEGETATION_WINDOW_H
#define VEGETATION_WINDOW_H

#include <stdint.h>

enum { RADIUS_MAX = 15, WINDOW_CELLS_MAX = (2 * RADIUS_MAX + 1) * (2 * RADIUS_MAX + 1) };

/* Rows of one plane: `above` foreign rows, `rows` own ones, `below` foreign ones. Foreign rows end at the scene's edge. */
struct block {
    int32_t width;
    int32_t above;
    int32_t rows;
    int32_t below;
};

/* One value per own cell; NaN where the window has no valid cell. */
struct window_planes {
    float *mean;
    float *stddev;
    float *lowest;
    float *highest;
    float *median;
};

/* `values` are all rows of the block. The window is cut at the scene's edge, missing cells don't count. */
void window_statistics(const struct block *block, const float *values, int32_t radius, const struct window_planes *out);

/* Lee's filter on the own rows: a cell keeps of its difference from the local mean what exceeds the noise variance,
 * and a spike (beyond three standard deviations) becomes the median. */
void window_filter(const struct block *block, float *values, double noise, const struct window_planes *statistics);

#endif
