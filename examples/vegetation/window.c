/* Moving-window statistics by brute force: every window is collected, summed and its median selected. There are faster
 * ways (running sums, sliding histograms); this one has no rounding that depends on where a block begins, so any
 * division of the scene among ranks gives the same bytes. */
#include "window.h"

#include <math.h>

struct moments {
    float mean;
    float stddev;
    float lowest;
    float highest;
};

/* Copies the valid cells around (row, column) of the block; answers how many there are. */
static int32_t window_collect(const struct block *block, const float *values, int32_t row, int32_t column, int32_t radius,
                              float *cells)
{
    int32_t all = block->above + block->rows + block->below, count = 0;
    int32_t top = row - radius < 0 ? 0 : row - radius;
    int32_t bottom = row + radius >= all ? all - 1 : row + radius;
    int32_t left = column - radius < 0 ? 0 : column - radius;
    int32_t right = column + radius >= block->width ? block->width - 1 : column + radius;
    for (int32_t y = top; y <= bottom; y++) {
        const float *line = values + (int64_t)y * block->width;
        for (int32_t x = left; x <= right; x++) {
            if (line[x] == line[x])
                cells[count++] = line[x];
        }
    }
    return count;
}

/* Two passes: the mean first, then the squares of the differences from it. */
static struct moments window_moments(const float *cells, int32_t count)
{
    struct moments m = {0, 0, cells[0], cells[0]};
    double sum = 0.0, squares = 0.0;
    for (int32_t i = 0; i < count; i++) {
        sum += (double)cells[i];
        if (cells[i] < m.lowest)
            m.lowest = cells[i];
        if (cells[i] > m.highest)
            m.highest = cells[i];
    }
    double mean = sum / count;
    for (int32_t i = 0; i < count; i++) {
        double away = (double)cells[i] - mean;
        squares += away * away;
    }
    m.mean = (float)mean;
    m.stddev = (float)sqrt(squares / count);
    return m;
}

/* Hoare's selection: the value that would be at `wanted` if the cells were sorted. Reorders the cells. */
static float window_select(float *cells, int32_t count, int32_t wanted)
{
    int32_t low = 0, high = count - 1;
    while (low < high) {
        float pivot = cells[low + (high - low) / 2];
        int32_t i = low, j = high;
        while (i <= j) {
            while (cells[i] < pivot)
                i++;
            while (pivot < cells[j])
                j--;
            if (i <= j) {
                float swapped = cells[i];
                cells[i++] = cells[j];
                cells[j--] = swapped;
            }
        }
        if (wanted <= j)
            high = j;
        else if (wanted >= i)
            low = i;
        else
            break;
    }
    return cells[wanted];
}

static void cell_statistics(const struct window_planes *out, int64_t at, float *cells, int32_t count)
{
    if (count == 0) {
        out->mean[at] = out->stddev[at] = out->lowest[at] = out->highest[at] = out->median[at] = (float)NAN;
        return;
    }
    struct moments m = window_moments(cells, count);
    out->mean[at] = m.mean;
    out->stddev[at] = m.stddev;
    out->lowest[at] = m.lowest;
    out->highest[at] = m.highest;
    out->median[at] = window_select(cells, count, count / 2);
}

void window_statistics(const struct block *block, const float *values, int32_t radius, const struct window_planes *out)
{
    float cells[WINDOW_CELLS_MAX];
    for (int32_t row = 0; row < block->rows; row++) {
        for (int32_t column = 0; column < block->width; column++) {
            int32_t count = window_collect(block, values, block->above + row, column, radius, cells);
            cell_statistics(out, (int64_t)row * block->width + column, cells, count);
        }
    }
}

void window_filter(const struct block *block, float *values, double noise, const struct window_planes *statistics)
{
    float *own = values + (int64_t)block->above * block->width;
    for (int32_t row = 0; row < block->rows; row++) {
        for (int32_t column = 0; column < block->width; column++) {
            int64_t at = (int64_t)row * block->width + column;
            double value = own[at], mean = statistics->mean[at], stddev = statistics->stddev[at];
            if (value != value)
                continue;
            double variance = stddev * stddev, away = value - mean;
            if (fabs(away) > 3.0 * stddev)
                away = (double)statistics->median[at] - mean;
            double kept = variance > noise ? (variance - noise) / variance : 0.0;
            own[at] = (float)(mean + kept * away);
        }
    }
}
