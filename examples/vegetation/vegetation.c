/* Vegetation and water from a satellite scene, with MPI.
 *
 *   vegetation IMAGE.tif OUTDIR [--radius R] [--rounds N] [--scale S] [--bands red=3,nir=4,...]
 *
 * Rank 0 reads the scene and scatters its bands as blocks of rows. Each rank computes the spectral indices of its rows,
 * then works in rounds: for each index it fetches the rows around its block from the ranks that own them, takes the
 * statistics of a window around each cell, agrees with all others on the noise, and filters. In the end rank 0 gathers
 * the planes and writes maps (GeoTIFF, PNG) and statistics.csv.
 *
 * The same scene and options give the same bytes with any number of ranks and on any machine: a sum over the scene is
 * either one of integers or made by rank 0 in the order of the cells. Ranks beyond the number of rows sit idle.
 * It does not reproject, calibrate or mask clouds. */
#include "indices.h"
#include "png.h"
#include "tiff.h"
#include "window.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ROUNDS_MAX = 100000, PATH_SIZE = 1024, FIXED_POINT = 1 << 24, COVER_CLASSES = 5, EXIT_USAGE = 2 };

static const char usage[] =
    "usage: vegetation IMAGE.tif OUTDIR [--radius R] [--rounds N] [--scale S] [--bands red=3,nir=4,...]\n"
    "  --radius R   the window has (2R+1) x (2R+1) cells; 1 to 15, default 4\n"
    "  --rounds N   rounds of statistics and filter; default 14\n"
    "  --scale S    number that stands for reflectance 1; default 255 for 8-bit scenes, 10000 for wider integers, 1 for floats\n"
    "  --bands L    places of blue, green, red, nir, swir1, swir2 counted from 1 (0: absent); default 1,2,3,4,5,6\n";

struct options {
    const char *image;
    const char *out;
    int32_t radius;
    int32_t rounds;
    double scale;               /* 0: by the sample type */
    int32_t places[BANDS];      /* counted from 1, 0 absent */
    int32_t places_given;
};

/* What all ranks know of the scene. */
struct scene {
    int32_t width;
    int32_t height;
    double scale;
    int32_t present[BANDS];
};

/* One index on the own rows. `values` has the foreign rows too and changes each round. */
struct layer {
    int32_t there;
    float *original;
    float *values;
    double *texture;            /* sum of the standard deviations of all rounds */
    struct window_planes window;
};

struct work {
    MPI_Comm world;             /* the ranks that own rows */
    MPI_Comm halo;              /* the same ranks; halo rows never meet the messages of collectives */
    int32_t rank, ranks;
    struct scene scene;
    struct block block;
    int32_t first_row;
    struct layer layers[INDICES];
};

/* ---- options ---- */

static int32_t parse_number(const char *text, const char *name, int32_t low, int32_t high, int32_t *value, char *error)
{
    char *end = NULL;
    errno = 0;
    double number = strtod(text, &end);
    if (end == text || *end != 0 || !(number >= low && number <= high) || number != floor(number)) {
        snprintf(error, TIFF_ERROR_SIZE, "%s is \"%s\", expected a whole number from %d to %d", name, text, (int)low, (int)high);
        return -1;
    }
    *value = (int32_t)number;
    return 0;
}

static int32_t parse_bands(const char *text, struct options *options, char *error)
{
    options->places_given = 1;
    while (*text != 0) {
        char item[32];
        size_t length = strcspn(text, ",");
        int32_t band = 0;
        if (length >= sizeof item)
            length = sizeof item - 1;
        memcpy(item, text, length);
        item[length] = 0;
        char *equals = strchr(item, '=');
        if (equals != NULL)
            *equals = 0;
        while (band < BANDS && strcmp(item, band_names[band]) != 0)
            band++;
        if (equals == NULL || band == BANDS) {
            snprintf(error, TIFF_ERROR_SIZE, "--bands has \"%s\", expected blue, green, red, nir, swir1 or swir2, then = and a place",
                     item);
            return -1;
        }
        if (parse_number(equals + 1, item, 0, 256, &options->places[band], error) < 0)
            return -1;
        text += length;
        if (*text == ',')
            text++;
    }
    return 0;
}

static int32_t parse_option(const char *name, const char *value, struct options *options, char *error)
{
    if (strcmp(name, "--radius") == 0)
        return parse_number(value, name, 1, RADIUS_MAX, &options->radius, error);
    if (strcmp(name, "--rounds") == 0)
        return parse_number(value, name, 1, ROUNDS_MAX, &options->rounds, error);
    if (strcmp(name, "--bands") == 0)
        return parse_bands(value, options, error);
    if (strcmp(name, "--scale") == 0) {
        char *end = NULL;
        options->scale = strtod(value, &end);
        if (end != value && *end == 0 && options->scale > 0.0 && options->scale < 1e12)
            return 0;
        snprintf(error, TIFF_ERROR_SIZE, "--scale is \"%s\", expected a number above 0", value);
        return -1;
    }
    snprintf(error, TIFF_ERROR_SIZE, "unknown option \"%s\"", name);
    return -1;
}

static int32_t parse(int argc, char **argv, struct options *options, char *error)
{
    memset(options, 0, sizeof *options);
    options->radius = 4;
    options->rounds = 14;
    for (int32_t band = 0; band < BANDS; band++)
        options->places[band] = band + 1;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) {
            if (i + 1 == argc) {
                snprintf(error, TIFF_ERROR_SIZE, "%s needs a value", argv[i]);
                return -1;
            }
            if (parse_option(argv[i], argv[i + 1], options, error) < 0)
                return -1;
            i++;
        } else if (options->image == NULL) {
            options->image = argv[i];
        } else if (options->out == NULL) {
            options->out = argv[i];
        } else {
            snprintf(error, TIFF_ERROR_SIZE, "unexpected argument \"%s\"", argv[i]);
            return -1;
        }
    }
    if (options->out == NULL) {
        snprintf(error, TIFF_ERROR_SIZE, "%s is missing", options->image == NULL ? "IMAGE.tif" : "OUTDIR");
        return -1;
    }
    return 0;
}

/* ---- the scene ---- */

static void *need(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        fprintf(stderr, "vegetation: no memory for %" PRIu64 " bytes; use more ranks or a smaller scene\n",
                (uint64_t)count * size);
        MPI_Abort(MPI_COMM_WORLD, 3);
    }
    return memory;
}

static int32_t describe(const struct options *options, const struct tiff_image *image, struct scene *scene, char *error)
{
    scene->width = image->width;
    scene->height = image->height;
    scene->scale = options->scale > 0.0 ? options->scale : image->is_float ? 1.0 : image->bits == 8 ? 255.0 : 10000.0;
    for (int32_t band = 0; band < BANDS; band++) {
        int32_t place = options->places[band];
        if (place > image->bands && options->places_given && place != band + 1) {
            snprintf(error, TIFF_ERROR_SIZE, "--bands places %s at %d, but %s has %d bands", band_names[band], (int)place,
                     options->image, (int)image->bands);
            return -1;
        }
        scene->present[band] = place >= 1 && place <= image->bands;
    }
    if (!scene->present[BAND_RED] || !scene->present[BAND_NIR]) {
        snprintf(error, TIFF_ERROR_SIZE, "%s has %d bands; red (%d) and nir (%d) are needed, say where they are with --bands",
                 options->image, (int)image->bands, (int)options->places[BAND_RED], (int)options->places[BAND_NIR]);
        return -1;
    }
    return 0;
}

/* Missing samples become NaN, the form that all later steps know. */
static void mask_missing(struct tiff_image *image)
{
    int64_t samples = (int64_t)image->width * image->height * image->bands;
    for (int64_t i = 0; i < samples && image->has_nodata; i++)
        if (image->samples[i] == image->nodata)
            image->samples[i] = (double)NAN;
}

/* Rank 0 reads; all ranks learn the description, or all leave with the same exit code. */
static int32_t scene_read(const struct options *options, int32_t rank, struct tiff_image *image, struct scene *scene)
{
    char error[TIFF_ERROR_SIZE] = "";
    int32_t sizes[3 + BANDS] = {0};
    memset(scene, 0, sizeof *scene);
    if (rank == 0) {
        int32_t result = tiff_read(options->image, image, error);
        if (result == 0)
            result = describe(options, image, scene, error);
        if (result == 0) {
            mask_missing(image);
            printf("%s: %d x %d cells, %d bands of %d bits\n", options->image, (int)image->width, (int)image->height,
                   (int)image->bands, (int)image->bits);
        } else {
            fprintf(stderr, "vegetation: %s\n", error);
        }
        sizes[0] = result;
        sizes[1] = scene->width;
        sizes[2] = scene->height;
        memcpy(sizes + 3, scene->present, sizeof scene->present);
    }
    MPI_Bcast(sizes, 3 + BANDS, MPI_INT32_T, 0, MPI_COMM_WORLD);
    MPI_Bcast(&scene->scale, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    scene->width = sizes[1];
    scene->height = sizes[2];
    memcpy(scene->present, sizes + 3, sizeof scene->present);
    return sizes[0];
}

/* ---- rows and ranks ---- */

static int32_t row_of(const struct work *work, int32_t rank)
{
    return (int32_t)((int64_t)work->scene.height * rank / work->ranks);
}

static int32_t at_least(int32_t value, int32_t floor_value)
{
    return value > floor_value ? value : floor_value;
}

static int32_t at_most(int32_t value, int32_t ceiling)
{
    return value < ceiling ? value : ceiling;
}

static void block_place(struct work *work, int32_t radius)
{
    int32_t end = row_of(work, work->rank + 1);
    work->first_row = row_of(work, work->rank);
    work->block.width = work->scene.width;
    work->block.rows = end - work->first_row;
    work->block.above = at_most(radius, work->first_row);
    work->block.below = at_most(radius, work->scene.height - end);
}

/* Counts and displacements, in cells, of all ranks' rows. */
static void blocks_list(const struct work *work, int *counts, int *starts)
{
    for (int32_t rank = 0; rank < work->ranks; rank++) {
        starts[rank] = row_of(work, rank) * work->scene.width;
        counts[rank] = (row_of(work, rank + 1) - row_of(work, rank)) * work->scene.width;
    }
}

static void layers_compute(struct work *work, const struct options *options, const struct tiff_image *image)
{
    int64_t cells = (int64_t)work->block.rows * work->block.width;
    int64_t around = (int64_t)(work->block.above + work->block.rows + work->block.below) * work->block.width;
    int *counts = need((size_t)work->ranks, sizeof(int)), *starts = need((size_t)work->ranks, sizeof(int));
    double *samples[BANDS] = {NULL};
    blocks_list(work, counts, starts);
    for (int32_t band = 0; band < BANDS; band++) {
        if (!work->scene.present[band])
            continue;
        int64_t plane = (int64_t)work->scene.width * work->scene.height;
        const double *from = work->rank == 0 ? image->samples + plane * (options->places[band] - 1) : NULL;
        samples[band] = need((size_t)cells, sizeof(double));
        MPI_Scatterv(from, counts, starts, MPI_DOUBLE, samples[band], (int)cells, MPI_DOUBLE, 0, work->world);
    }
    for (int32_t index = 0; index < INDICES; index++) {
        struct layer *layer = &work->layers[index];
        layer->there = index_possible((enum index)index, work->scene.present);
        if (!layer->there)
            continue;
        float **planes[] = {&layer->original,      &layer->window.mean,    &layer->window.stddev,
                            &layer->window.lowest, &layer->window.highest, &layer->window.median};
        for (size_t p = 0; p < sizeof planes / sizeof planes[0]; p++)
            *planes[p] = need((size_t)cells, sizeof(float));
        layer->values = need((size_t)around, sizeof(float));
        layer->texture = need((size_t)cells, sizeof(double));
        index_compute((enum index)index, (const double *const *)samples, work->scene.scale, cells, layer->original);
        memcpy(layer->values + (int64_t)work->block.above * work->block.width, layer->original, (size_t)cells * sizeof(float));
    }
    for (int32_t band = 0; band < BANDS; band++)
        free(samples[band]);
    free(counts);
    free(starts);
}

/* Rows of `owner` that lie around (not in) the block of `reader`, on one side of it: how many and from which row. */
static int32_t rows_shared(const struct work *work, int32_t owner, int32_t reader, int32_t radius, int32_t *first)
{
    int32_t begin = row_of(work, owner), end = row_of(work, owner + 1);
    if (owner < reader)
        begin = at_least(begin, row_of(work, reader) - radius);
    else
        end = at_most(end, row_of(work, reader + 1) + radius);
    *first = begin;
    return end - begin;
}

/* Fetches the rows around the block. With more ranks than scene rows per radius they belong to several ranks. */
static void halo_exchange(const struct work *work, float *values, int32_t radius, int32_t tag)
{
    int32_t top = work->first_row - work->block.above, width = work->block.width, pending = 0;
    MPI_Request requests[4 * RADIUS_MAX];
    for (int32_t away = 1; away <= radius; away++) {
        for (int32_t side = -1; side <= 1; side += 2) {
            int32_t other = work->rank + side * away, first, rows;
            if (other < 0 || other >= work->ranks)
                continue;
            rows = rows_shared(work, other, work->rank, radius, &first);
            if (rows > 0)
                MPI_Irecv(values + (int64_t)(first - top) * width, rows * width, MPI_FLOAT, other, tag, work->halo,
                          &requests[pending++]);
            rows = rows_shared(work, work->rank, other, radius, &first);
            if (rows > 0)
                MPI_Isend(values + (int64_t)(first - top) * width, rows * width, MPI_FLOAT, other, tag, work->halo,
                          &requests[pending++]);
        }
    }
    MPI_Waitall(pending, requests, MPI_STATUSES_IGNORE);
}

/* ---- rounds ---- */

struct agreement {
    double mean;
    double noise;               /* mean of the local variances */
    double lowest, highest;
    int64_t valid;
};

static int64_t fixed(double value)
{
    double bounded = value > 1000.0 ? 1000.0 : value < -1000.0 ? -1000.0 : value;
    return (int64_t)floor(bounded * FIXED_POINT + 0.5);
}

/* Figures over the whole scene. Sums are of fixed-point integers, so that their order doesn't matter. */
static struct agreement agree(const struct work *work, const struct layer *layer)
{
    int64_t cells = (int64_t)work->block.rows * work->block.width, sums[3] = {0, 0, 0}, all[3];
    double ends[2] = {1e30, 1e30}, all_ends[2]; /* lowest, and highest turned round */
    for (int64_t i = 0; i < cells; i++) {
        double mean = layer->window.mean[i], stddev = layer->window.stddev[i];
        if (mean != mean)
            continue;
        sums[0] += fixed(mean);
        sums[1] += fixed(stddev * stddev);
        sums[2]++;
        if ((double)layer->window.lowest[i] < ends[0])
            ends[0] = (double)layer->window.lowest[i];
        if (-(double)layer->window.highest[i] < ends[1])
            ends[1] = -(double)layer->window.highest[i];
    }
    MPI_Allreduce(sums, all, 3, MPI_INT64_T, MPI_SUM, work->world);
    MPI_Allreduce(ends, all_ends, 2, MPI_DOUBLE, MPI_MIN, work->world);
    struct agreement a = {0.0, 0.0, all_ends[0], -all_ends[1], all[2]};
    if (all[2] > 0) {
        a.mean = (double)all[0] / FIXED_POINT / (double)all[2];
        a.noise = (double)all[1] / FIXED_POINT / (double)all[2];
    }
    return a;
}

static void texture_add(const struct work *work, struct layer *layer)
{
    int64_t cells = (int64_t)work->block.rows * work->block.width;
    for (int64_t i = 0; i < cells; i++)
        layer->texture[i] += (double)layer->window.stddev[i];
}

static void rounds_run(struct work *work, const struct options *options)
{
    for (int32_t round = 1; round <= options->rounds; round++) {
        for (int32_t index = 0; index < INDICES; index++) {
            struct layer *layer = &work->layers[index];
            if (!layer->there)
                continue;
            halo_exchange(work, layer->values, options->radius, index);
            window_statistics(&work->block, layer->values, options->radius, &layer->window);
            struct agreement a = agree(work, layer);
            texture_add(work, layer);
            /* A tenth of the mean variance counts as noise; more would blur field borders within a few rounds. */
            window_filter(&work->block, layer->values, a.noise * 0.1, &layer->window);
            if (work->rank == 0 && index == INDEX_NDVI) {
                printf("round %d/%d ndvi mean %.6f min %.6f max %.6f variance %.8f\n", (int)round, (int)options->rounds, a.mean,
                       a.lowest, a.highest, a.noise);
                fflush(stdout);
            }
        }
    }
}

/* ---- output, on rank 0 ---- */

struct stop {
    uint8_t at;                 /* colour 1 to 255 */
    uint8_t colour[3];
};

static const struct stop greens[] = {{1, {10, 38, 84}},      {44, {62, 112, 158}},  {80, {178, 160, 128}}, {104, {222, 196, 142}},
                                     {128, {247, 241, 218}}, {160, {186, 217, 132}}, {208, {65, 150, 60}},  {255, {0, 68, 27}}};
static const struct stop waters[] = {{1, {110, 70, 25}},    {64, {203, 164, 100}}, {128, {244, 241, 234}}, {192, {84, 154, 205}},
                                     {255, {8, 48, 107}}};
static const struct stop ramp[] = {{1, {8, 6, 30}},      {64, {72, 20, 105}},   {128, {183, 55, 100}}, {192, {248, 140, 60}},
                                   {255, {252, 252, 190}}};

static void palette_fill(const struct stop *stops, uint8_t palette[256][3])
{
    memset(palette[0], 0, 3);
    for (int32_t colour = 1, s = 0; colour < 256; colour++) {
        if (colour > stops[s + 1].at)
            s++;
        int32_t span = stops[s + 1].at - stops[s].at, in = colour - stops[s].at;
        for (int32_t c = 0; c < 3; c++)
            palette[colour][c] = (uint8_t)((stops[s].colour[c] * (span - in) + stops[s + 1].colour[c] * in + span / 2) / span);
    }
}

static int compare_floats(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* The valid cells, sorted; answers their number. */
static int64_t sorted_values(const float *plane, int64_t cells, float *sorted)
{
    int64_t valid = 0;
    for (int64_t i = 0; i < cells; i++)
        if (plane[i] == plane[i])
            sorted[valid++] = plane[i];
    qsort(sorted, (size_t)valid, sizeof(float), compare_floats);
    return valid;
}

static double quantile(const float *sorted, int64_t valid, int64_t percent)
{
    return valid > 0 ? (double)sorted[(valid - 1) * percent / 100] : 0.0;
}

struct output {
    const struct options *options;
    const struct tiff_image *image;
    float *plane;               /* the gathered plane */
    float *sorted;
    uint8_t *colours;
    FILE *table;
    int32_t failed;
};

static void output_path(const struct output *output, const char *name, const char *suffix, char path[PATH_SIZE])
{
    snprintf(path, PATH_SIZE, "%s/%s%s", output->options->out, name, suffix);
}

static void picture_write(struct output *output, const char *name, const struct stop *stops, double low, double high)
{
    char path[PATH_SIZE];
    uint8_t palette[256][3];
    int64_t cells = (int64_t)output->image->width * output->image->height;
    double span = high > low ? high - low : 1.0;
    palette_fill(stops, palette);
    for (int64_t i = 0; i < cells; i++) {
        double value = ((double)output->plane[i] - low) / span;
        value = value > 1.0 ? 1.0 : value;
        output->colours[i] = value != value ? 0 : (uint8_t)(1 + (int32_t)floor((value > 0.0 ? value : 0.0) * 254.0 + 0.5));
    }
    output_path(output, name, ".png", path);
    if (png_write(path, output->image->width, output->image->height, output->colours, palette) < 0) {
        fprintf(stderr, "vegetation: write %s: %s\n", path, strerror(errno));
        output->failed = 1;
    }
}

static void map_write(struct output *output, const char *name)
{
    char path[PATH_SIZE], error[TIFF_ERROR_SIZE];
    output_path(output, name, ".tif", path);
    if (tiff_write(path, output->image, output->plane, error) < 0) {
        fprintf(stderr, "vegetation: %s\n", error);
        output->failed = 1;
    }
}

/* One line of the table. The sum is made in the order of the cells. */
static void table_line(struct output *output, const char *name, const char *stage, int64_t valid)
{
    int64_t cells = (int64_t)output->image->width * output->image->height;
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < cells; i++)
        if (output->plane[i] == output->plane[i])
            sum += (double)output->plane[i];
    double mean = valid > 0 ? sum / (double)valid : 0.0;
    for (int64_t i = 0; i < cells; i++)
        if (output->plane[i] == output->plane[i])
            squares += ((double)output->plane[i] - mean) * ((double)output->plane[i] - mean);
    if (output->table == NULL)
        return;
    fprintf(output->table, "%s,%s,%" PRId64 ",%" PRId64 ",%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g\n", name, stage, valid,
            cells - valid, quantile(output->sorted, valid, 0), quantile(output->sorted, valid, 100), sum, mean,
            valid > 0 ? sqrt(squares / (double)valid) : 0.0, quantile(output->sorted, valid, 10),
            quantile(output->sorted, valid, 50), quantile(output->sorted, valid, 90));
}

static void gather(const struct work *work, const float *own, struct output *output)
{
    int *counts = need((size_t)work->ranks, sizeof(int)), *starts = need((size_t)work->ranks, sizeof(int));
    blocks_list(work, counts, starts);
    MPI_Gatherv(own, work->block.rows * work->block.width, MPI_FLOAT, output->plane, counts, starts, MPI_FLOAT, 0, work->world);
    free(counts);
    free(starts);
}

/* Indices spread around zero and get a diverging map with white at zero; textures start at zero. */
static void plane_report(const struct work *work, struct output *output, const float *own, const char *name, const char *index,
                         const char *stage, const struct stop *stops)
{
    gather(work, own, output);
    if (work->rank != 0)
        return;
    int64_t valid = sorted_values(output->plane, (int64_t)work->scene.width * work->scene.height, output->sorted);
    double low = quantile(output->sorted, valid, 2), high = quantile(output->sorted, valid, 98);
    double reach = fabs(low) > fabs(high) ? fabs(low) : fabs(high);
    table_line(output, index, stage, valid);
    if (name == NULL)
        return;
    map_write(output, name);
    picture_write(output, name, stops, stops == ramp ? 0.0 : -reach, reach);
}

static void layer_report(const struct work *work, const struct options *options, struct output *output, int32_t index)
{
    const struct layer *layer = &work->layers[index];
    const char *name = index_names[index];
    const struct stop *stops = index == INDEX_NDWI ? waters : greens;
    int64_t cells = (int64_t)work->block.rows * work->block.width;
    float *texture = need((size_t)cells, sizeof(float));
    for (int64_t i = 0; i < cells; i++)
        texture[i] = (float)(layer->texture[i] / options->rounds);
    plane_report(work, output, layer->original, name, name, "index", stops);
    plane_report(work, output, layer->window.mean, index == INDEX_NDVI ? "ndvi_mean" : NULL, name, "mean", stops);
    plane_report(work, output, texture, index == INDEX_NDVI ? "ndvi_stddev" : NULL, name, "texture", ramp);
    free(texture);
}

/* How much of the scene is water or bare, sparse, or dense. */
static void cover_report(const struct work *work)
{
    static const char *const names[COVER_CLASSES] = {"missing", "water", "bare", "sparse", "dense"};
    int64_t own[COVER_CLASSES] = {0}, all[COVER_CLASSES] = {0};
    int64_t cells = (int64_t)work->block.rows * work->block.width;
    const float *ndvi = work->layers[INDEX_NDVI].original;
    for (int64_t i = 0; i < cells; i++)
        own[ndvi[i] != ndvi[i] ? 0 : ndvi[i] < -0.25f ? 1 : ndvi[i] < 0.05f ? 2 : ndvi[i] < 0.3f ? 3 : 4]++;
    MPI_Reduce(own, all, COVER_CLASSES, MPI_INT64_T, MPI_SUM, 0, work->world);
    for (int32_t c = 0; c < COVER_CLASSES && work->rank == 0; c++)
        printf("cover %s %" PRId64 "\n", names[c], all[c]);
}

static int32_t report(const struct work *work, const struct options *options, const struct tiff_image *image)
{
    struct output output = {options, image, NULL, NULL, NULL, NULL, 0};
    char path[PATH_SIZE];
    if (work->rank == 0) {
        size_t cells = (size_t)work->scene.width * (size_t)work->scene.height;
        output.plane = need(cells, sizeof(float));
        output.sorted = need(cells, sizeof(float));
        output.colours = need(cells, 1);
        output_path(&output, "statistics", ".csv", path);
        output.table = fopen(path, "wb");
        if (output.table == NULL) {
            fprintf(stderr, "vegetation: write %s: %s\n", path, strerror(errno));
            output.failed = 1;
        } else {
            fprintf(output.table, "index,stage,cells,missing,min,max,sum,mean,stddev,p10,median,p90\n");
        }
    }
    for (int32_t index = 0; index < INDICES; index++)
        if (work->layers[index].there)
            layer_report(work, options, &output, index);
    cover_report(work);
    if (output.table != NULL && fclose(output.table) != 0) {
        fprintf(stderr, "vegetation: write %s: %s\n", path, strerror(errno));
        output.failed = 1;
    }
    free(output.plane);
    free(output.sorted);
    free(output.colours);
    MPI_Bcast(&output.failed, 1, MPI_INT32_T, 0, work->world);
    return output.failed;
}

/* ---- life ---- */

static void layers_free(struct work *work)
{
    for (int32_t index = 0; index < INDICES; index++) {
        struct layer *layer = &work->layers[index];
        free(layer->original);
        free(layer->values);
        free(layer->texture);
        free(layer->window.mean);
        free(layer->window.stddev);
        free(layer->window.lowest);
        free(layer->window.highest);
        free(layer->window.median);
    }
}

static int32_t work_run(const struct options *options, const struct scene *scene, const struct tiff_image *image, MPI_Comm world)
{
    struct work work;
    int rank, ranks;
    memset(&work, 0, sizeof work);
    work.world = world;
    work.scene = *scene;
    MPI_Comm_dup(world, &work.halo);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &ranks);
    work.rank = rank;
    work.ranks = ranks;
    block_place(&work, options->radius);
    layers_compute(&work, options, image);
    rounds_run(&work, options);
    int32_t failed = report(&work, options, image);
    layers_free(&work);
    MPI_Comm_free(&work.halo);
    return failed;
}

int main(int argc, char **argv)
{
    struct options options;
    struct tiff_image image;
    struct scene scene;
    char error[TIFF_ERROR_SIZE] = "";
    int rank, code = EXIT_USAGE;
    memset(&image, 0, sizeof image);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (parse(argc, argv, &options, error) < 0) {
        if (rank == 0)
            fprintf(stderr, "vegetation: %s\n%s", error, usage);
    } else if (scene_read(&options, rank, &image, &scene) == 0) {
        MPI_Comm active;
        int32_t failed = 0;
        /* The folder may be there already, or come with the first file; opening the files tells. */
        if (rank == 0)
            mkdir(options.out, 0777);
        MPI_Comm_split(MPI_COMM_WORLD, rank < scene.height ? 0 : MPI_UNDEFINED, rank, &active);
        if (active != MPI_COMM_NULL) {
            failed = work_run(&options, &scene, &image, active);
            MPI_Comm_free(&active);
        }
        code = failed ? 1 : 0;
        if (rank == 0 && !failed)
            printf("done: maps and statistics.csv are written\n");
    }
    tiff_free(&image);
    MPI_Finalize();
    return code;
}
