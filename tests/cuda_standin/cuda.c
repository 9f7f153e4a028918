/* A CUDA driver without a GPU: the functions of libcuda that pycuda is linked to, on threads and host memory.
 *
 * It is slow on purpose. A stream is a queue with its own thread. Every operation starts after a random delay, and a
 * copy reads and writes its bytes when it runs, so a race that real hardware allows happens here often. A mistake of
 * the program is recorded as a violation, in addition to the error that CUDA would return.
 *
 * One lock guards everything except the bytes of copies and the functions of kernels; `changed` is signalled whenever
 * the condition of a waiting thread may have changed. Functions that pycuda calls while it holds the interpreter lock
 * must not wait for a stream, because the stream may run Python. So freed memory lives until no operation can use it;
 * the real driver waits instead.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef uint64_t CUcontext, CUstream, CUevent; /* numbers that are never used again; a pointer's size */
typedef void (*Function)(void *);

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709,
    HOST_MEMORY_ALREADY_REGISTERED = 712,
    HOST_MEMORY_NOT_REGISTERED = 713,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
};
/* CU_STREAM_NON_BLOCKING, CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING */
enum { MAX_DEVICES = 8 };
enum { NON_BLOCKING = 1, BLOCKING_SYNC = 1, DISABLE_TIMING = 2 };

/* ---- What there is ---- */

typedef struct context {
    CUcontext handle;
    bool primary, dead, past; /* past: from before a reset */
    CUdevice device;
    int references;
    CUresult error; /* sticky: once set, every call returns it and no operation has an effect */
    struct stream *standard;
    struct context *next;
} Context;

/* Kinds of operations; a trace has them by number. */
typedef enum { COPY_IN, COPY_OUT, COPY_DEVICE, FILL, KERNEL, HOST_FUNCTION, RECORD, WAIT, KINDS } Kind;
static const char *const kind_names[KINDS] = {"copy in", "copy out", "copy on device", "fill",
                                              "kernel",  "host function", "record", "wait"};

typedef struct operation {
    Kind kind;
    int64_t ticket; /* number of the operation, in the order of enqueueing */
    int64_t asked_ns, delay_ns;
    size_t bytes;
    unsigned char *to, *from, *staged;
    uint32_t value;
    int width; /* bytes of the value */
    Function function;
    void *argument;
    struct event *event;
    struct stream *after; /* waits until that stream has reached that ticket */
    int64_t after_ticket;
    CUresult fault; /* error that it causes in its context */
    bool pageable;
    struct range **uses;
    size_t used;
    struct operation *next;
} Operation;

typedef struct stream {
    CUstream handle;
    Context *context;
    bool blocking, dead;
    pthread_t thread;
    Operation *head, *tail; /* the head is running */
    int64_t last, done;     /* tickets */
    struct stream *next;
} Stream;

typedef struct event {
    CUevent handle;
    Context *context;
    bool timed, spins, dead; /* spins: a thread that waits for it uses a core */
    Stream *recorded_on; /* latest record, if any */
    int64_t recorded_ticket, time_ns;
    struct event *next;
} Event;

typedef enum { DEVICE, PINNED, REGISTERED } Place;
static const char *const place_names[] = {"device memory", "pinned memory", "registered memory"};

/* Memory. `start` is the address that the program knows; of device memory it is none that a processor can follow.
 * Addresses of device and pinned memory are not given out twice before a reset, so that a late use is known as such. */
typedef struct range {
    Place place;
    enum { LIVE, DYING, FREED } state;
    uint64_t start;
    size_t size;
    unsigned char *bytes;
    int users;        /* queued operations that are known to use it */
    int64_t freed_at; /* ticket */
    Context *context;
    struct range *next;
} Range;

typedef struct {
    int64_t asked_ns, start_ns, end_ns, bytes;
    CUstream stream;
    int32_t kind, pageable;
} Row;

typedef struct call {
    const char *name;
    int64_t count;
    struct call *next;
} Call;

typedef struct failure { /* lets the nth call or operation of that name fail */
    char name[64];
    int left;
    CUresult code;
    struct failure *next;
} Failure;

#define DEVICE_ADDRESSES (1ull << 60) /* not canonical on x86-64: dereferencing one is a fault */
#define ALIGNMENT 512
#define FRESH 0xA5 /* content of new memory */
#define GONE 0xDD  /* content of freed memory */
#define STACK 32

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static Context *contexts;
static Stream *streams;
static Event *events;
static Range *ranges;
static Call *calls;
static Failure *failures;
static char *violations;
static size_t violations_size;
static Row *rows;
static size_t row_count, row_room;
static bool engine_busy[MAX_DEVICES][3]; /* a GPU has one engine for each direction of copies, and one that computes */
static int64_t tickets, pageable_copies, resets;
static uint64_t handles = 0x1000, next_address = DEVICE_ADDRESSES;
static size_t memory_used[MAX_DEVICES];
static bool started;
static CUresult lost; /* code of the lost device, else 0 */

static struct {
    int devices, models, major, minor, cuda_version;
    size_t memory; /* of each device */
    uint64_t seed;
    int64_t clock_ns; /* by which times of events are ahead */
    int64_t delay_ns; /* largest random delay */
    double in_bytes_per_second, out_bytes_per_second, kernel_seconds;
    bool costs; /* instead of delays */
} settings;

static __thread struct {
    int64_t resets;
    int depth, left; /* left: contexts from before a reset */
    Context *items[STACK];
} stack;
static __thread Operation *running; /* the operation that this thread runs */
static __thread Stream *running_on;

/* ---- Helpers ---- */

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static void sleep_until(int64_t ns) {
    struct timespec time = {ns / 1000000000ll, ns % 1000000000ll};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR) {
    }
}

static uint64_t draw(void) { /* xorshift64* */
    settings.seed ^= settings.seed >> 12;
    settings.seed ^= settings.seed << 25;
    settings.seed ^= settings.seed >> 27;
    return settings.seed * 2685821657736338717ull;
}

static void violation(const char *format, ...) {
    char line[256];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length++] = '\n';
    violations = realloc(violations, violations_size + length);
    memcpy(violations + violations_size, line, length);
    violations_size += length;
}

__attribute__((constructor)) static void set_defaults(void) {
    memset(&settings, 0, sizeof settings);
    settings.devices = settings.models = 1;
    settings.major = 8;
    settings.minor = 6;
    settings.cuda_version = 13000;
    settings.memory = 1ull << 30;
    settings.seed = 1;
    settings.delay_ns = 300000;
}

static bool fails(const char *name, CUresult *code) {
    bool found = false;
    for (Failure *failure = failures; failure; failure = failure->next)
        if (failure->left > 0 && !strcmp(failure->name, name) && --failure->left == 0) {
            *code = failure->code;
            found = true;
        }
    return found;
}

static int64_t *count_of(const char *name) {
    for (Call *call = calls; call; call = call->next)
        if (!strcmp(call->name, name)) return &call->count;
    return NULL;
}

static void count(const char *name) { /* `name` must be a constant */
    int64_t *counted = count_of(name);
    if (counted) {
        ++*counted;
        return;
    }
    Call *call = calloc(1, sizeof *call);
    *call = (Call){name, 1, calls};
    calls = call;
}

/* ---- Begin and end of a call ---- */

static Context *current(void) {
    if (stack.resets != resets) {
        stack.left += stack.depth;
        stack.depth = 0;
        stack.resets = resets;
    }
    return stack.depth ? stack.items[stack.depth - 1] : NULL;
}

typedef enum { ANYTIME, DRIVER, CONTEXT } Needs;

static CUresult refusal(const char *name, Needs needs) {
    CUresult code;
    count(name);
    if (running) {
        violation("%s called from a %s", name, kind_names[running->kind]);
        return NOT_PERMITTED;
    }
    if (fails(name, &code)) return code;
    if (needs == ANYTIME) return SUCCESS;
    if (!started) return NOT_INITIALIZED;
    if (needs == DRIVER) return SUCCESS;
    if (!current()) return INVALID_CONTEXT;
    if (current()->dead) return CONTEXT_IS_DESTROYED;
    return current()->error;
}

/* Takes the lock, and keeps it if the call may continue; `end` releases it. */
static CUresult begin(const char *name, Needs needs) {
    pthread_mutex_lock(&lock);
    CUresult code = refusal(name, needs);
    if (code) pthread_mutex_unlock(&lock);
    return code;
}

static CUresult end(CUresult code) {
    pthread_mutex_unlock(&lock);
    return code;
}

#define BEGIN(name, needs)                                                                                             \
    do {                                                                                                               \
        CUresult refused = begin(name, needs);                                                                         \
        if (refused) return refused;                                                                                   \
    } while (0)

/* ---- Memory ---- */

static Range *add_range(Place place, uint64_t start, size_t size, unsigned char *bytes) {
    Range *range = calloc(1, sizeof *range);
    *range = (Range){place, LIVE, start, size, bytes, 0, 0, current(), ranges};
    return ranges = range;
}

/* The memory that an address lies in. Where it was only registered, it is the program's own again once it is not. */
static Range *find_range(uint64_t address, bool on_device) {
    for (Range *range = ranges; range; range = range->next) {
        if ((range->place == DEVICE) != on_device || (range->place == REGISTERED && range->state != LIVE)) continue;
        if (address >= range->start && address - range->start < range->size) return range;
    }
    return NULL;
}

static Range *find_start(uint64_t start, Place place) {
    for (Range *range = ranges; range; range = range->next)
        if (range->place == place && range->start == start && (range->state == LIVE || place != REGISTERED))
            return range;
    return NULL;
}

static void use(Operation *operation, Range *range) {
    for (size_t i = 0; i < operation->used; i++)
        if (operation->uses[i] == range) return;
    operation->uses = realloc(operation->uses, (operation->used + 1) * sizeof *operation->uses);
    operation->uses[operation->used++] = range;
    range->users++;
}

static void let_die(Range *range) {
    range->state = FREED;
    if (range->place == PINNED) memset(range->bytes, GONE, range->size); /* kept, to detect writes */
    if (range->place == DEVICE) {
        free(range->bytes);
        range->bytes = NULL;
    }
}

static int64_t oldest_ticket(const Context *context) {
    int64_t oldest = INT64_MAX;
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->head && (!context || stream->context == context) && stream->head->ticket < oldest)
            oldest = stream->head->ticket;
    return oldest;
}

/* Releases memory that was freed while operations were queued, once they are done. */
static void bury(void) {
    int64_t oldest = oldest_ticket(NULL);
    for (Range *range = ranges; range; range = range->next)
        if (range->state == DYING && !range->users && oldest > range->freed_at) let_die(range);
}

static void free_range(Range *range) {
    if (range->users) violation("%s freed while an operation on its way uses it", place_names[range->place]);
    if (range->place == DEVICE) memory_used[range->context->device] -= range->size;
    range->state = DYING;
    range->freed_at = tickets;
    bury();
}

/* Returns the host address of `size` bytes of device memory, for an operation. */
static CUresult on_device(Operation *operation, CUdeviceptr address, size_t size, unsigned char **bytes) {
    Range *range = find_range(address, true);
    if (!range || size > range->size - (address - range->start)) return INVALID_VALUE;
    if (range->state != LIVE) {
        violation("%s of device memory that was freed", kind_names[operation->kind]);
        operation->fault = ILLEGAL_ADDRESS;
        return SUCCESS;
    }
    use(operation, range);
    *bytes = range->bytes + (address - range->start);
    return SUCCESS;
}

static CUresult on_host(Operation *operation, void *host, size_t size, unsigned char **bytes) {
    Range *range = find_range((uintptr_t)host, false);
    *bytes = host;
    if (!range) {
        operation->pageable = true;
        return SUCCESS;
    }
    if (size > range->size - ((uintptr_t)host - range->start)) return INVALID_VALUE;
    if (range->state != LIVE) {
        violation("%s of pinned memory that was freed", kind_names[operation->kind]);
        operation->fault = ILLEGAL_ADDRESS;
        return SUCCESS;
    }
    use(operation, range);
    return SUCCESS;
}

/* ---- Streams ---- */

static int engine_of(Kind kind) {
    if (kind == COPY_IN || kind == COPY_OUT) return kind;
    return kind == COPY_DEVICE || kind == FILL || kind == KERNEL ? 2 : -1;
}

static int64_t cost_ns(const Operation *operation) {
    double seconds = operation->kind == KERNEL ? settings.kernel_seconds : 0;
    if (operation->kind == COPY_IN && settings.in_bytes_per_second)
        seconds = operation->bytes / settings.in_bytes_per_second;
    if (operation->kind == COPY_OUT && settings.out_bytes_per_second)
        seconds = operation->bytes / settings.out_bytes_per_second;
    return (int64_t)(seconds * 1e9);
}

static bool cancelled(const Stream *stream) { return stream->context->dead || stream->context->error; }

/* The default stream and those that are not non-blocking wait for what was asked of each other before. */
static bool may_start(const Stream *stream) {
    const Operation *operation = stream->head;
    if (cancelled(stream)) return true;
    if (operation->after && operation->after->done < operation->after_ticket) return false;
    for (const Stream *other = streams; other; other = other->next) {
        bool both = other->context == stream->context && other->blocking && stream->blocking;
        bool standard = stream == stream->context->standard || other == stream->context->standard;
        if (other != stream && both && standard && other->head && other->head->ticket < operation->ticket) return false;
    }
    return true;
}

static void carry_out(const Operation *operation) { /* the lock is not held */
    if (operation->function) operation->function(operation->argument);
    else if (operation->kind == FILL)
        for (size_t i = 0; i < operation->bytes; i += operation->width)
            memcpy(operation->to + i, &operation->value, operation->width);
    else if (operation->to) memmove(operation->to, operation->from, operation->bytes);
}

static void add_row(const Stream *stream, const Operation *operation, int64_t start_ns) {
    if (row_count == row_room) rows = realloc(rows, (row_room = row_room * 2 + 64) * sizeof *rows);
    rows[row_count++] = (Row){operation->asked_ns, start_ns, now_ns(), (int64_t)operation->bytes,
                              stream->handle, operation->kind, operation->pageable};
}

static void run(Stream *stream, Operation *operation) {
    int engine = engine_of(operation->kind);
    bool *busy = engine_busy[stream->context->device];
    while (engine >= 0 && busy[engine]) pthread_cond_wait(&changed, &lock);
    if (fails(kind_names[operation->kind], &operation->fault) || operation->fault)
        if (!cancelled(stream)) stream->context->error = operation->fault;
    if (cancelled(stream)) return;
    if (engine >= 0) busy[engine] = true;
    int64_t start_ns = now_ns(), until_ns = start_ns + (settings.costs ? cost_ns(operation) : 0);
    running = operation;
    running_on = stream;
    pthread_mutex_unlock(&lock);
    if (until_ns > start_ns) sleep_until(until_ns);
    carry_out(operation);
    pthread_mutex_lock(&lock);
    running = NULL;
    if (engine >= 0) busy[engine] = false;
    add_row(stream, operation, start_ns);
    Event *event = operation->event;
    if (event && event->recorded_ticket == operation->ticket) event->time_ns = now_ns() + settings.clock_ns;
}

static void retire(Stream *stream, Operation *operation) {
    stream->head = operation->next;
    stream->done = operation->ticket;
    for (size_t i = 0; i < operation->used; i++) operation->uses[i]->users--;
    free(operation->uses);
    free(operation->staged);
    free(operation);
    bury();
    pthread_cond_broadcast(&changed);
}

static void *serve(void *argument) {
    Stream *stream = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stream->head && !stream->dead && !stream->context->dead) pthread_cond_wait(&changed, &lock);
        if (!stream->head) break;
        while (!may_start(stream)) pthread_cond_wait(&changed, &lock);
        if (stream->head->delay_ns && !cancelled(stream)) {
            int64_t until_ns = now_ns() + stream->head->delay_ns;
            pthread_mutex_unlock(&lock);
            sleep_until(until_ns);
            pthread_mutex_lock(&lock);
        }
        run(stream, stream->head);
        retire(stream, stream->head);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static Stream *add_stream(Context *context, bool blocking) {
    Stream *stream = calloc(1, sizeof *stream);
    *stream = (Stream){.handle = handles += 16, .context = context, .blocking = blocking, .next = streams};
    if (pthread_create(&stream->thread, NULL, serve, stream)) abort();
    return streams = stream;
}

/* The default stream's handle is 0 or 1 (CU_STREAM_LEGACY). */
static Stream *find_stream(CUstream handle, const char *call) {
    if (handle <= 1) {
        if (!current()->standard) current()->standard = add_stream(current(), true);
        return current()->standard;
    }
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->handle == handle) {
            if (!stream->dead && !stream->context->dead) return stream;
            violation("%s of a stream that was destroyed", call);
        }
    return NULL;
}

static Operation *make_operation(Kind kind, size_t bytes) {
    Operation *operation = calloc(1, sizeof *operation);
    operation->kind = kind;
    operation->bytes = bytes;
    return operation;
}

static CUresult drop(Operation *operation, CUresult code) {
    for (size_t i = 0; i < operation->used; i++) operation->uses[i]->users--;
    free(operation->uses);
    free(operation);
    return code;
}

static void enqueue(Stream *stream, Operation *operation) {
    operation->ticket = stream->last = ++tickets;
    operation->asked_ns = now_ns();
    if (!settings.costs && settings.delay_ns) operation->delay_ns = draw() % settings.delay_ns;
    if (stream->head) stream->tail->next = operation;
    else stream->head = operation;
    stream->tail = operation;
    pthread_cond_broadcast(&changed);
}

static CUresult wait_for(const Stream *stream, int64_t ticket) {
    while (stream->done < ticket) pthread_cond_wait(&changed, &lock);
    return stream->context->error;
}

/* ---- Driver, device, contexts ---- */

CUresult cuInit(unsigned flags) {
    (void)flags;
    BEGIN("cuInit", ANYTIME);
    started = true;
    return end(settings.devices ? SUCCESS : 100); /* NO_DEVICE */
}

CUresult cuDriverGetVersion(int *version) {
    BEGIN("cuDriverGetVersion", ANYTIME);
    *version = settings.cuda_version;
    return end(SUCCESS);
}

static const struct {
    CUresult code;
    const char *text;
} errors[] = {
    {0, "no error"},
    {1, "invalid argument"},
    {2, "out of memory"},
    {3, "initialization error"},
    {35, "CUDA driver is a stub library"},
    {100, "no CUDA-capable device is detected"},
    {101, "invalid device ordinal"},
    {201, "invalid device context"},
    {400, "invalid resource handle"},
    {600, "device not ready"},
    {700, "an illegal memory access was encountered"},
    {702, "the launch timed out and was terminated"},
    {709, "context is destroyed"},
    {712, "part or all of the requested memory range is already mapped"},
    {713, "pointer does not correspond to a registered memory region"},
    {719, "unspecified launch failure"},
    {800, "operation not permitted"},
    {801, "operation not supported"},
    {999, "unknown error"},
};

CUresult cuGetErrorString(CUresult code, const char **text) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *text = errors[i].text;
            return SUCCESS;
        }
    *text = "unrecognized error code"; /* the real driver returns NULL, which pycuda would dereference */
    return INVALID_VALUE;
}

CUresult cuDeviceGetCount(int *found) {
    BEGIN("cuDeviceGetCount", DRIVER);
    *found = settings.devices;
    return end(SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    BEGIN("cuDeviceGet", DRIVER);
    if (ordinal < 0 || ordinal >= settings.devices) return end(INVALID_DEVICE);
    *device = ordinal;
    return end(SUCCESS);
}

CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    BEGIN("cuDeviceGetName", DRIVER);
    snprintf(name, size, "Stand-in GPU %d", device % settings.models);
    return end(SUCCESS);
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    (void)device;
    BEGIN("cuDeviceComputeCapability", DRIVER);
    *major = settings.major;
    *minor = settings.minor;
    return end(SUCCESS);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    (void)device;
    BEGIN("cuDeviceGetAttribute", DRIVER);
    switch (attribute) {
    case 40: *value = 2; break; /* ASYNC_ENGINE_COUNT */
    case 41: *value = 1; break; /* UNIFIED_ADDRESSING */
    case 75: *value = settings.major; break;
    case 76: *value = settings.minor; break;
    default: return end(NOT_SUPPORTED);
    }
    return end(SUCCESS);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    (void)device;
    BEGIN("cuDeviceTotalMem", DRIVER);
    *bytes = settings.memory;
    return end(SUCCESS);
}

static Context *find_context(CUcontext handle) {
    for (Context *context = contexts; context; context = context->next)
        if (context->handle == handle) return context;
    return NULL;
}

static Context *find_primary(CUdevice device) {
    for (Context *context = contexts; context; context = context->next)
        if (context->primary && context->device == device && !context->dead) return context;
    return NULL;
}

static Context *add_context(bool primary, CUdevice device) {
    Context *context = calloc(1, sizeof *context);
    *context = (Context){.handle = handles += 16, .primary = primary, .device = device, .references = 1, .next = contexts};
    return contexts = context;
}

/* A context takes with it what is left in it. A program that frees what it allocates leaves nothing, unless it could
 * not free it. */
static void destroy_context(Context *context) {
    int left[3] = {0}, left_streams = 0, left_events = 0;
    if (oldest_ticket(context) != INT64_MAX && !context->error)
        violation("context destroyed while operations were on their way");
    bool complain = !context->error;
    context->dead = true;
    for (Range *range = ranges; range; range = range->next)
        if (range->context == context && range->state == LIVE) {
            left[range->place]++;
            if (range->place == DEVICE) memory_used[context->device] -= range->size;
            range->state = DYING;
            range->freed_at = tickets;
        }
    for (Stream *stream = streams; stream; stream = stream->next)
        if (stream->context == context && stream != context->standard && !stream->dead) left_streams++;
    for (Event *event = events; event; event = event->next)
        if (event->context == context && !event->dead) left_events++;
    for (Place place = DEVICE; place <= REGISTERED; place++)
        if (left[place] && complain) violation("context destroyed with %s in it: %d", place_names[place], left[place]);
    if (left_streams && complain) violation("context destroyed with streams in it: %d", left_streams);
    if (left_events && complain) violation("context destroyed with events in it: %d", left_events);
    bury();
    pthread_cond_broadcast(&changed);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice device) {
    BEGIN("cuDevicePrimaryCtxRetain", DRIVER);
    if (device < 0 || device >= settings.devices) return end(INVALID_DEVICE);
    if (lost) return end(lost);
    Context *primary = find_primary(device);
    if (primary) primary->references++;
    else primary = add_context(true, device);
    *handle = primary->handle;
    return end(SUCCESS);
}

static bool is_on_stack(const Context *context) {
    current();
    for (int i = 0; i < stack.depth; i++)
        if (stack.items[i] == context) return true;
    return false;
}

/* Takes the context from no stack: a thread that releases its last reference must have popped it before. */
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    BEGIN("cuDevicePrimaryCtxRelease", DRIVER);
    Context *primary = find_primary(device);
    if (!primary) {
        violation("primary context released more often than retained");
        return end(INVALID_CONTEXT);
    }
    if (!--primary->references) {
        if (is_on_stack(primary)) violation("primary context released while it is on the stack of the thread");
        destroy_context(primary);
    }
    return end(SUCCESS);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    BEGIN("cuDevicePrimaryCtxReset", DRIVER);
    if (find_primary(device)) destroy_context(find_primary(device));
    return end(SUCCESS);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    (void)device, (void)flags;
    BEGIN("cuDevicePrimaryCtxSetFlags", DRIVER);
    return end(SUCCESS);
}

/* Objects of pycuda that outlive a reset push their context to be destroyed in, and may pop another before; an error
 * there would end the process. */
static CUresult push(Context *context) {
    if (!context) return INVALID_CONTEXT;
    current();
    if (context->dead && !context->past) return CONTEXT_IS_DESTROYED;
    if (stack.depth == STACK) return INVALID_VALUE;
    stack.items[stack.depth++] = context;
    return SUCCESS;
}

CUresult cuCtxCreate_v4(CUcontext *handle, void *parameters, unsigned flags, CUdevice device) {
    (void)parameters, (void)flags;
    BEGIN("cuCtxCreate", DRIVER);
    if (device < 0 || device >= settings.devices) return end(INVALID_DEVICE);
    if (lost) return end(lost);
    Context *context = add_context(false, device);
    *handle = context->handle;
    return end(push(context));
}

static CUresult destroy(const char *name, CUcontext handle) {
    BEGIN(name, DRIVER);
    Context *context = find_context(handle);
    if (!context || context->dead || context->primary) {
        violation("%s of a context that is not there to be destroyed", name);
        return end(INVALID_CONTEXT);
    }
    if (current() == context) stack.depth--;
    destroy_context(context);
    return end(SUCCESS);
}

CUresult cuCtxDestroy_v2(CUcontext handle) { return destroy("cuCtxDestroy", handle); }
CUresult cuCtxDetach(CUcontext handle) { return destroy("cuCtxDetach", handle); } /* pycuda calls this one */

CUresult cuCtxPushCurrent_v2(CUcontext handle) {
    BEGIN("cuCtxPushCurrent", DRIVER);
    return end(push(find_context(handle)));
}

CUresult cuCtxPopCurrent_v2(CUcontext *handle) {
    BEGIN("cuCtxPopCurrent", DRIVER);
    if (!current() && !stack.left) return end(INVALID_CONTEXT);
    Context *popped = current();
    if (popped) stack.depth--;
    else stack.left--;
    if (handle) *handle = popped ? popped->handle : 0;
    return end(SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *handle) {
    BEGIN("cuCtxGetCurrent", DRIVER);
    *handle = current() ? current()->handle : 0;
    return end(SUCCESS);
}

CUresult cuCtxSetCurrent(CUcontext handle) {
    BEGIN("cuCtxSetCurrent", DRIVER);
    if (current()) stack.depth--;
    return end(handle ? push(find_context(handle)) : SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *device) {
    BEGIN("cuCtxGetDevice", CONTEXT);
    *device = current()->device;
    return end(SUCCESS);
}

CUresult cuCtxSynchronize(void) {
    BEGIN("cuCtxSynchronize", CONTEXT);
    Context *context = current();
    int64_t until = tickets;
    while (oldest_ticket(context) <= until) pthread_cond_wait(&changed, &lock);
    return end(context->error);
}

/* ---- Memory: calls of the driver ---- */

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    BEGIN("cuMemGetInfo", CONTEXT);
    *total = settings.memory;
    size_t used = memory_used[current()->device];
    *free_bytes = settings.memory > used ? settings.memory - used : 0;
    return end(SUCCESS);
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
    BEGIN("cuMemAlloc", CONTEXT);
    if (!size) return end(INVALID_VALUE);
    size_t *used = &memory_used[current()->device];
    if (*used + size > settings.memory) return end(OUT_OF_MEMORY);
    unsigned char *bytes = malloc(size);
    if (!bytes) return end(OUT_OF_MEMORY);
    memset(bytes, FRESH, size);
    *used += size;
    *address = add_range(DEVICE, next_address, size, bytes)->start;
    next_address += (size / ALIGNMENT + 2) * ALIGNMENT; /* with a gap, so that an address past the end is in no range */
    return end(SUCCESS);
}

CUresult cuMemFree_v2(CUdeviceptr address) {
    BEGIN("cuMemFree", CONTEXT);
    Range *range = find_start(address, DEVICE);
    if (range && range->state == LIVE) {
        free_range(range);
        return end(SUCCESS);
    }
    violation(range ? "device memory freed twice" : "cuMemFree of what is not the start of device memory");
    return end(INVALID_VALUE);
}

static CUresult allocate_host(const char *name, void **host, size_t size) {
    BEGIN(name, CONTEXT);
    if (!size) return end(INVALID_VALUE);
    unsigned char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return end(OUT_OF_MEMORY);
    memset(bytes, FRESH, size);
    add_range(PINNED, (uintptr_t)bytes, size, bytes);
    *host = bytes;
    return end(SUCCESS);
}

CUresult cuMemHostAlloc(void **host, size_t size, unsigned flags) {
    (void)flags;
    return allocate_host("cuMemHostAlloc", host, size);
}

CUresult cuMemAllocHost_v2(void **host, size_t size) { return allocate_host("cuMemAllocHost", host, size); }

CUresult cuMemFreeHost(void *host) {
    BEGIN("cuMemFreeHost", CONTEXT);
    Range *range = find_start((uintptr_t)host, PINNED);
    if (range && range->state == LIVE) {
        free_range(range);
        return end(SUCCESS);
    }
    violation(range ? "pinned memory freed twice" : "cuMemFreeHost of what is not the start of pinned memory");
    return end(INVALID_VALUE);
}

CUresult cuMemHostRegister_v2(void *host, size_t size, unsigned flags) {
    (void)flags;
    BEGIN("cuMemHostRegister", CONTEXT);
    if (!size) return end(INVALID_VALUE);
    for (Range *range = ranges; range; range = range->next)
        if (range->place != DEVICE && range->state == LIVE && range->start < (uintptr_t)host + size &&
            (uintptr_t)host < range->start + range->size)
            return end(HOST_MEMORY_ALREADY_REGISTERED);
    add_range(REGISTERED, (uintptr_t)host, size, host);
    return end(SUCCESS);
}

CUresult cuMemHostUnregister(void *host) {
    BEGIN("cuMemHostUnregister", CONTEXT);
    Range *range = find_start((uintptr_t)host, REGISTERED);
    if (!range) return end(HOST_MEMORY_NOT_REGISTERED);
    free_range(range);
    return end(SUCCESS);
}

/* ---- Copies and fills ---- */

/* Pageable memory is read before the call returns; if it is written, the call returns afterwards. */
static CUresult stage(Stream *stream, Operation *operation, bool waits) {
    if (operation->pageable && !waits) pageable_copies++;
    if (operation->pageable && operation->kind == COPY_IN) {
        operation->staged = malloc(operation->bytes + 1);
        memcpy(operation->staged, operation->from, operation->bytes);
        operation->from = operation->staged;
    }
    waits = waits || (operation->pageable && operation->kind == COPY_OUT);
    enqueue(stream, operation);
    return waits ? wait_for(stream, operation->ticket) : SUCCESS;
}

static CUresult copy(const char *name, Kind kind, CUdeviceptr device, void *host, size_t size, CUstream handle,
                     bool waits) {
    BEGIN(name, CONTEXT);
    Stream *stream = find_stream(handle, name);
    if (!stream || stream->context != current()) return end(INVALID_HANDLE);
    if (!size) return end(SUCCESS);
    Operation *operation = make_operation(kind, size);
    CUresult code = on_device(operation, device, size, kind == COPY_IN ? &operation->to : &operation->from);
    if (!code) code = on_host(operation, host, size, kind == COPY_IN ? &operation->from : &operation->to);
    if (code) return end(drop(operation, code));
    return end(stage(stream, operation, waits));
}

static CUresult copy_device(const char *name, CUdeviceptr to, CUdeviceptr from, size_t size, CUstream handle) {
    BEGIN(name, CONTEXT);
    Stream *stream = find_stream(handle, name);
    if (!stream || stream->context != current()) return end(INVALID_HANDLE);
    if (!size) return end(SUCCESS);
    Operation *operation = make_operation(COPY_DEVICE, size);
    CUresult code = on_device(operation, to, size, &operation->to);
    if (!code) code = on_device(operation, from, size, &operation->from);
    if (code) return end(drop(operation, code));
    enqueue(stream, operation);
    return end(SUCCESS);
}

static CUresult fill(const char *name, CUdeviceptr to, uint32_t value, int width, size_t many, CUstream handle) {
    BEGIN(name, CONTEXT);
    Stream *stream = find_stream(handle, name);
    if (!stream || stream->context != current()) return end(INVALID_HANDLE);
    if (!many) return end(SUCCESS);
    Operation *operation = make_operation(FILL, many * width);
    operation->value = value;
    operation->width = width;
    CUresult code = on_device(operation, to, many * width, &operation->to);
    if (code) return end(drop(operation, code));
    enqueue(stream, operation);
    return end(SUCCESS);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, void *from, size_t size) {
    return copy("cuMemcpyHtoD", COPY_IN, to, from, size, 0, true);
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
    return copy("cuMemcpyDtoH", COPY_OUT, from, to, size, 0, true);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, void *from, size_t size, CUstream stream) {
    return copy("cuMemcpyHtoDAsync", COPY_IN, to, from, size, stream, false);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    return copy("cuMemcpyDtoHAsync", COPY_OUT, from, to, size, stream, false);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
    return copy_device("cuMemcpyDtoD", to, from, size, 0);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    return copy_device("cuMemcpyDtoDAsync", to, from, size, stream);
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t many) {
    return fill("cuMemsetD8", to, value, 1, many, 0);
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t many) {
    return fill("cuMemsetD32", to, value, 4, many, 0);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t many, CUstream stream) {
    return fill("cuMemsetD8Async", to, value, 1, many, stream);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t many, CUstream stream) {
    return fill("cuMemsetD32Async", to, value, 4, many, stream);
}

/* ---- Streams and events: calls of the driver ---- */

CUresult cuStreamCreate(CUstream *handle, unsigned flags) {
    BEGIN("cuStreamCreate", CONTEXT);
    *handle = add_stream(current(), !(flags & NON_BLOCKING))->handle;
    return end(SUCCESS);
}

CUresult cuStreamDestroy_v2(CUstream handle) {
    BEGIN("cuStreamDestroy", CONTEXT);
    Stream *stream = handle > 1 ? find_stream(handle, "cuStreamDestroy") : NULL;
    if (!stream) return end(INVALID_HANDLE);
    stream->dead = true; /* its thread finishes the queue */
    pthread_cond_broadcast(&changed);
    return end(SUCCESS);
}

CUresult cuStreamQuery(CUstream handle) {
    BEGIN("cuStreamQuery", CONTEXT);
    Stream *stream = find_stream(handle, "cuStreamQuery");
    return end(!stream ? INVALID_HANDLE : stream->done < stream->last ? NOT_READY : SUCCESS);
}

CUresult cuStreamSynchronize(CUstream handle) {
    BEGIN("cuStreamSynchronize", CONTEXT);
    Stream *stream = find_stream(handle, "cuStreamSynchronize");
    return end(stream ? wait_for(stream, stream->last) : INVALID_HANDLE);
}

static CUresult launch(const char *name, Kind kind, CUstream handle, Function function, void *argument) {
    BEGIN(name, CONTEXT);
    Stream *stream = find_stream(handle, name);
    if (!stream || stream->context != current()) return end(INVALID_HANDLE);
    Operation *operation = make_operation(kind, 0);
    operation->function = function;
    operation->argument = argument;
    enqueue(stream, operation);
    return end(SUCCESS);
}

CUresult cuLaunchHostFunc(CUstream stream, Function function, void *argument) {
    return launch("cuLaunchHostFunc", HOST_FUNCTION, stream, function, argument);
}

static Event *find_event(CUevent handle, const char *call) {
    for (Event *event = events; event; event = event->next)
        if (event->handle == handle) {
            if (!event->dead && !event->context->dead) return event;
            violation("%s of an event that was destroyed", call);
        }
    return NULL;
}

CUresult cuEventCreate(CUevent *handle, unsigned flags) {
    BEGIN("cuEventCreate", CONTEXT);
    Event *event = calloc(1, sizeof *event);
    *event = (Event){
        .handle = handles += 16, .context = current(), .timed = !(flags & DISABLE_TIMING),
        .spins = !(flags & BLOCKING_SYNC), .next = events};
    events = event;
    *handle = event->handle;
    return end(SUCCESS);
}

CUresult cuEventDestroy_v2(CUevent handle) {
    BEGIN("cuEventDestroy", CONTEXT);
    Event *event = find_event(handle, "cuEventDestroy");
    if (!event) return end(INVALID_HANDLE);
    event->dead = true;
    return end(SUCCESS);
}

CUresult cuEventRecord(CUevent handle, CUstream stream_handle) {
    BEGIN("cuEventRecord", CONTEXT);
    Event *event = find_event(handle, "cuEventRecord");
    Stream *stream = find_stream(stream_handle, "cuEventRecord");
    if (!event || !stream || event->context != stream->context) return end(INVALID_HANDLE);
    Operation *operation = make_operation(RECORD, 0);
    operation->event = event;
    enqueue(stream, operation);
    event->recorded_on = stream;
    event->recorded_ticket = operation->ticket;
    return end(SUCCESS);
}

static bool complete(const Event *event) {
    return !event->recorded_on || event->recorded_on->done >= event->recorded_ticket;
}

CUresult cuEventQuery(CUevent handle) {
    BEGIN("cuEventQuery", CONTEXT);
    Event *event = find_event(handle, "cuEventQuery");
    return end(!event ? INVALID_HANDLE : complete(event) ? SUCCESS : NOT_READY);
}

CUresult cuEventSynchronize(CUevent handle) {
    BEGIN("cuEventSynchronize", CONTEXT);
    Event *event = find_event(handle, "cuEventSynchronize");
    if (!event) return end(INVALID_HANDLE);
    return end(event->recorded_on ? wait_for(event->recorded_on, event->recorded_ticket) : SUCCESS);
}

/* Waits for the latest record of now; does not wait for an event that was never recorded. */
CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned flags) {
    (void)flags;
    BEGIN("cuStreamWaitEvent", CONTEXT);
    Event *event = find_event(handle, "cuStreamWaitEvent");
    Stream *stream = find_stream(stream_handle, "cuStreamWaitEvent");
    if (!event || !stream) return end(INVALID_HANDLE);
    Operation *operation = make_operation(WAIT, 0);
    operation->after = event->recorded_on;
    operation->after_ticket = event->recorded_ticket;
    enqueue(stream, operation);
    return end(SUCCESS);
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent first, CUevent second) {
    BEGIN("cuEventElapsedTime", CONTEXT);
    Event *from = find_event(first, "cuEventElapsedTime"), *to = find_event(second, "cuEventElapsedTime");
    if (!from || !to || !from->timed || !to->timed || !from->recorded_on || !to->recorded_on)
        return end(INVALID_HANDLE);
    if (!complete(from) || !complete(to)) return end(NOT_READY);
    *milliseconds = (to->time_ns - from->time_ns) / 1e6f;
    return end(SUCCESS);
}

/* ---- Other functions that pycuda is linked to ---- */

#define NONE(name) CUresult name(void) { return NOT_SUPPORTED; }
NONE(cuArray3DCreate_v2) NONE(cuArray3DGetDescriptor_v2) NONE(cuArrayCreate_v2) NONE(cuArrayDestroy)
NONE(cuArrayGetDescriptor_v2) NONE(cuCtxAttach) NONE(cuCtxDisablePeerAccess) NONE(cuCtxEnablePeerAccess)
NONE(cuCtxGetApiVersion) NONE(cuCtxGetCacheConfig) NONE(cuCtxGetLimit) NONE(cuCtxGetSharedMemConfig)
NONE(cuCtxSetCacheConfig) NONE(cuCtxSetLimit) NONE(cuCtxSetSharedMemConfig) NONE(cuDeviceCanAccessPeer)
NONE(cuDeviceGetByPCIBusId) NONE(cuDeviceGetPCIBusId) NONE(cuFuncGetAttribute) NONE(cuFuncSetAttribute)
NONE(cuFuncSetBlockShape) NONE(cuFuncSetCacheConfig) NONE(cuFuncSetSharedSize) NONE(cuIpcCloseMemHandle)
NONE(cuIpcGetEventHandle) NONE(cuIpcGetMemHandle) NONE(cuIpcOpenEventHandle) NONE(cuIpcOpenMemHandle_v2) NONE(cuLaunch)
NONE(cuLaunchGrid) NONE(cuLaunchGridAsync) NONE(cuLaunchKernel) NONE(cuLinkAddData_v2) NONE(cuLinkAddFile_v2)
NONE(cuLinkComplete) NONE(cuLinkCreate_v2) NONE(cuLinkDestroy) NONE(cuMemAllocManaged) NONE(cuMemAllocPitch_v2)
NONE(cuMemcpy2D_v2) NONE(cuMemcpy2DAsync_v2) NONE(cuMemcpy2DUnaligned_v2) NONE(cuMemcpy3D_v2) NONE(cuMemcpy3DAsync_v2)
NONE(cuMemcpy3DPeer) NONE(cuMemcpy3DPeerAsync) NONE(cuMemcpyAtoA_v2) NONE(cuMemcpyAtoD_v2) NONE(cuMemcpyAtoH_v2)
NONE(cuMemcpyDtoA_v2) NONE(cuMemcpyHtoA_v2) NONE(cuMemcpyPeer) NONE(cuMemcpyPeerAsync) NONE(cuMemGetAddressRange_v2)
NONE(cuMemHostGetDevicePointer_v2) NONE(cuMemHostGetFlags) NONE(cuMemsetD16_v2) NONE(cuMemsetD16Async)
NONE(cuMemsetD2D16_v2) NONE(cuMemsetD2D16Async) NONE(cuMemsetD2D32_v2) NONE(cuMemsetD2D32Async) NONE(cuMemsetD2D8_v2)
NONE(cuMemsetD2D8Async) NONE(cuModuleGetFunction) NONE(cuModuleGetGlobal_v2) NONE(cuModuleGetSurfRef)
NONE(cuModuleGetTexRef) NONE(cuModuleLoad) NONE(cuModuleLoadData) NONE(cuModuleLoadDataEx) NONE(cuModuleUnload)
NONE(cuParamSetf) NONE(cuParamSeti) NONE(cuParamSetSize) NONE(cuParamSetTexRef) NONE(cuParamSetv)
NONE(cuProfilerInitialize) NONE(cuProfilerStart) NONE(cuProfilerStop) NONE(cuStreamAttachMemAsync)
NONE(cuSurfRefGetArray) NONE(cuSurfRefSetArray) NONE(cuTexRefCreate) NONE(cuTexRefDestroy) NONE(cuTexRefGetAddress_v2)
NONE(cuTexRefGetAddressMode) NONE(cuTexRefGetArray) NONE(cuTexRefGetFilterMode) NONE(cuTexRefGetFlags)
NONE(cuTexRefGetFormat) NONE(cuTexRefSetAddress2D_v3) NONE(cuTexRefSetAddress_v2) NONE(cuTexRefSetAddressMode)
NONE(cuTexRefSetArray) NONE(cuTexRefSetFilterMode) NONE(cuTexRefSetFlags) NONE(cuTexRefSetFormat)

/* ---- For the tests ---- */

/* Runs a function as a kernel of a stream. It may use standin_device_memory, and must not call the driver. */
CUresult standin_enqueue(CUstream stream, Function function, void *argument) {
    return launch("standin_enqueue", KERNEL, stream, function, argument);
}

static bool usable(Range *range, CUdeviceptr address, size_t size) {
    if (!range || size > range->size - (address - range->start)) return false;
    if (!running) return range->state == LIVE;
    if (range->state == DYING && running->ticket <= range->freed_at)
        violation("device memory freed while a kernel on its way uses it");
    else if (range->state != LIVE) return false;
    use(running, range);
    return true;
}

/* Returns the host address of device memory; NULL, an illegal address for a kernel, if it is not device memory. */
void *standin_device_memory(CUdeviceptr address, size_t size) {
    pthread_mutex_lock(&lock);
    Range *range = find_range(address, true);
    void *bytes = usable(range, address, size) ? range->bytes + (address - range->start) : NULL;
    if (!bytes && running) {
        violation("kernel uses what is not device memory%s", range && range->state != LIVE ? " any more" : "");
        if (!cancelled(running_on)) running_on->context->error = ILLEGAL_ADDRESS;
    }
    pthread_mutex_unlock(&lock);
    return bytes;
}

/* Lets the nth call of that name return `code`, or the nth operation of that kind end with it. */
void standin_fail(const char *name, int nth, CUresult code) {
    pthread_mutex_lock(&lock);
    Failure *failure = calloc(1, sizeof *failure);
    *failure = (Failure){.left = nth, .code = code, .next = failures};
    snprintf(failure->name, sizeof failure->name, "%s", name);
    failures = failure;
    pthread_mutex_unlock(&lock);
}

/* Loses the device: nothing runs any more, and every call that needs it returns `code`. */
void standin_lose(CUresult code) {
    pthread_mutex_lock(&lock);
    lost = code;
    for (Context *context = contexts; context; context = context->next) context->error = code;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* Sets the number of devices, at most MAX_DEVICES, and how many models they are, in turn. */
void standin_device(int devices, int models, int major, int minor) {
    pthread_mutex_lock(&lock);
    settings.devices = devices;
    settings.models = models;
    settings.major = major;
    settings.minor = minor;
    pthread_mutex_unlock(&lock);
}

/* Sets the newest CUDA that the driver supports: 13020 is 13.2. */
void standin_cuda_version(int version) {
    pthread_mutex_lock(&lock);
    settings.cuda_version = version;
    pthread_mutex_unlock(&lock);
}

/* Lets time pass on the device: later events have later times. */
void standin_advance_clock(double seconds) {
    pthread_mutex_lock(&lock);
    settings.clock_ns += (int64_t)(seconds * 1e9);
    pthread_mutex_unlock(&lock);
}

void standin_memory(size_t bytes) {
    pthread_mutex_lock(&lock);
    settings.memory = bytes;
    pthread_mutex_unlock(&lock);
}

/* Sets random delays of up to `seconds` before every operation. */
void standin_delays(uint64_t seed, double seconds) {
    pthread_mutex_lock(&lock);
    settings.costs = false;
    settings.seed = (seed + 1) * 0x9E3779B97F4A7C15ull; /* similar seeds give different numbers; never 0 */
    settings.delay_ns = (int64_t)(seconds * 1e9);
    pthread_mutex_unlock(&lock);
}

/* Sets fixed durations instead of delays; 0 costs nothing. */
void standin_costs(double in_bytes_per_second, double out_bytes_per_second, double kernel_seconds) {
    pthread_mutex_lock(&lock);
    settings.costs = true;
    settings.in_bytes_per_second = in_bytes_per_second;
    settings.out_bytes_per_second = out_bytes_per_second;
    settings.kernel_seconds = kernel_seconds;
    pthread_mutex_unlock(&lock);
}

/* Returns the number of live objects of a kind; -1 for an unknown kind. */
int64_t standin_live(const char *kind) {
    int64_t found[3] = {0}, others = 0;
    pthread_mutex_lock(&lock);
    for (Range *range = ranges; range; range = range->next) found[range->place] += range->state == LIVE;
    if (!strcmp(kind, "device")) others = found[DEVICE];
    else if (!strcmp(kind, "pinned")) others = found[PINNED];
    else if (!strcmp(kind, "registered")) others = found[REGISTERED];
    else if (!strcmp(kind, "device bytes"))
        for (CUdevice device = 0; device < MAX_DEVICES; device++) others += memory_used[device];
    else if (!strcmp(kind, "contexts"))
        for (Context *context = contexts; context; context = context->next) others += !context->dead;
    else if (!strcmp(kind, "streams"))
        for (Stream *stream = streams; stream; stream = stream->next)
            others += !stream->dead && !stream->context->dead && stream != stream->context->standard;
    else if (!strcmp(kind, "blocking streams"))
        for (Stream *stream = streams; stream; stream = stream->next)
            others += stream->blocking && !stream->dead && stream != stream->context->standard;
    else if (!strcmp(kind, "spinning events"))
        for (Event *event = events; event; event = event->next) others += event->spins && !event->dead;
    else if (!strcmp(kind, "events"))
        for (Event *event = events; event; event = event->next) others += !event->dead && !event->context->dead;
    else others = -1;
    pthread_mutex_unlock(&lock);
    return others;
}

/* Returns the number of contexts on the stack of the calling thread. */
int standin_stack_depth(void) {
    pthread_mutex_lock(&lock);
    current();
    int depth = stack.depth;
    pthread_mutex_unlock(&lock);
    return depth;
}

int64_t standin_calls(const char *name) {
    pthread_mutex_lock(&lock);
    int64_t *counted = count_of(name), found = counted ? *counted : 0;
    pthread_mutex_unlock(&lock);
    return found;
}

int64_t standin_pageable_copies(void) {
    pthread_mutex_lock(&lock);
    int64_t found = pageable_copies;
    pthread_mutex_unlock(&lock);
    return found;
}

/* Copies as many bytes of the lines as fit; returns the total number of bytes. */
size_t standin_violations(char *text, size_t room) {
    pthread_mutex_lock(&lock);
    for (Range *range = ranges; range; range = range->next) {
        if (range->place != PINNED || range->state != FREED) continue;
        for (size_t i = 0; i < range->size; i++)
            if (range->bytes[i] != GONE) {
                violation("pinned memory written to after it was freed");
                memset(range->bytes, GONE, range->size);
                break;
            }
    }
    size_t size = violations_size;
    if (text && size) memcpy(text, violations, size < room ? size : room);
    pthread_mutex_unlock(&lock);
    return size;
}

/* Copies as many rows as fit; returns the total number of rows. */
size_t standin_trace(Row *copies, size_t room) {
    pthread_mutex_lock(&lock);
    size_t many = row_count;
    if (copies && many) memcpy(copies, rows, (many < room ? many : room) * sizeof *rows);
    pthread_mutex_unlock(&lock);
    return many;
}

#define FREE_LIST(type, list)                                                                                          \
    while (list) {                                                                                                     \
        type *item = list;                                                                                             \
        list = item->next;                                                                                             \
        free(item);                                                                                                    \
    }

/* Returns to the initial state. Waits for running operations; queued ones do not run. */
void standin_reset(void) {
    pthread_mutex_lock(&lock);
    for (Context *context = contexts; context; context = context->next) context->dead = context->past = true;
    pthread_cond_broadcast(&changed);
    for (Stream *stream = streams; stream; stream = stream->next) {
        pthread_mutex_unlock(&lock);
        pthread_join(stream->thread, NULL);
        pthread_mutex_lock(&lock);
    }
    for (Range *range = ranges; range; range = range->next) {
        if (range->place == PINNED) madvise(range->bytes, range->size, MADV_DONTNEED); /* an array may still use it */
        if (range->place == DEVICE) free(range->bytes);
    }
    FREE_LIST(Range, ranges)
    FREE_LIST(Event, events)
    FREE_LIST(Stream, streams)
    FREE_LIST(Call, calls)
    FREE_LIST(Failure, failures)
    row_count = violations_size = 0;
    memset(memory_used, 0, sizeof memory_used);
    pageable_copies = 0;
    lost = SUCCESS;
    resets++;
    set_defaults();
    pthread_mutex_unlock(&lock);
}
