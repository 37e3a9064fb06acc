/*
 * mpi.h of cells: MPI 3.1 and parts of MPI 4 for C and C++ programs that become WebAssembly modules.
 *
 * There is no MPI library inside a cell. Each function below is an import of the module `cloudskin_mpi`, which the agent
 * answers, so a rank can be moved with its requests and unmatched messages. Handles are small numbers that only the
 * agent understands. All functions of MPI 3.1 that C programs commonly call are declared; a program that calls one which
 * the agent doesn't implement links, and is refused with that function's name when it is submitted.
 *
 * `long`, pointers and MPI_Aint have 32 bits in a cell; MPI_Count and MPI_Offset have 64.
 * The numbers are part of the contract with the crate `cells`: changing one breaks modules that are already compiled.
 */
#ifndef CLOUDSKIN_MPI_H
#define CLOUDSKIN_MPI_H

#ifdef __cplusplus
extern "C" {
#endif

#define MPI_VERSION 3
#define MPI_SUBVERSION 1

typedef int MPI_Comm;
typedef int MPI_Group;
typedef int MPI_Datatype;
typedef int MPI_Op;
typedef int MPI_Request;
typedef int MPI_Message;
typedef int MPI_Errhandler;
typedef int MPI_Info;
typedef int MPI_Win;
typedef int MPI_File;
typedef int MPI_Session;
typedef int MPI_Fint;
typedef long MPI_Aint;
typedef long long MPI_Count;
typedef long long MPI_Offset;

/* 24 bytes; what follows MPI_ERROR is for MPI_Get_count and MPI_Test_cancelled only. */
typedef struct MPI_Status {
    int MPI_SOURCE;
    int MPI_TAG;
    int MPI_ERROR;
    int cloudskin_cancelled;
    long long cloudskin_count_bytes;
} MPI_Status;

/* Error classes. */
#define MPI_SUCCESS 0
#define MPI_ERR_BUFFER 1
#define MPI_ERR_COUNT 2
#define MPI_ERR_TYPE 3
#define MPI_ERR_TAG 4
#define MPI_ERR_COMM 5
#define MPI_ERR_RANK 6
#define MPI_ERR_REQUEST 7
#define MPI_ERR_ROOT 8
#define MPI_ERR_GROUP 9
#define MPI_ERR_OP 10
#define MPI_ERR_TOPOLOGY 11
#define MPI_ERR_DIMS 12
#define MPI_ERR_ARG 13
#define MPI_ERR_UNKNOWN 14
#define MPI_ERR_TRUNCATE 15
#define MPI_ERR_OTHER 16
#define MPI_ERR_INTERN 17
#define MPI_ERR_IN_STATUS 18
#define MPI_ERR_PENDING 19
#define MPI_ERR_ACCESS 20
#define MPI_ERR_AMODE 21
#define MPI_ERR_ASSERT 22
#define MPI_ERR_BAD_FILE 23
#define MPI_ERR_BASE 24
#define MPI_ERR_CONVERSION 25
#define MPI_ERR_DISP 26
#define MPI_ERR_DUP_DATAREP 27
#define MPI_ERR_FILE_EXISTS 28
#define MPI_ERR_FILE_IN_USE 29
#define MPI_ERR_FILE 30
#define MPI_ERR_INFO_KEY 31
#define MPI_ERR_INFO_NOKEY 32
#define MPI_ERR_INFO_VALUE 33
#define MPI_ERR_INFO 34
#define MPI_ERR_IO 35
#define MPI_ERR_KEYVAL 36
#define MPI_ERR_LOCKTYPE 37
#define MPI_ERR_NAME 38
#define MPI_ERR_NO_MEM 39
#define MPI_ERR_NOT_SAME 40
#define MPI_ERR_NO_SPACE 41
#define MPI_ERR_NO_SUCH_FILE 42
#define MPI_ERR_PORT 43
#define MPI_ERR_QUOTA 44
#define MPI_ERR_READ_ONLY 45
#define MPI_ERR_RMA_CONFLICT 46
#define MPI_ERR_RMA_SYNC 47
#define MPI_ERR_SERVICE 48
#define MPI_ERR_SIZE 49
#define MPI_ERR_SPAWN 50
#define MPI_ERR_UNSUPPORTED_DATAREP 51
#define MPI_ERR_UNSUPPORTED_OPERATION 52
#define MPI_ERR_WIN 53
#define MPI_ERR_RMA_RANGE 54
#define MPI_ERR_RMA_ATTACH 55
#define MPI_ERR_RMA_SHARED 56
#define MPI_ERR_RMA_FLAVOR 57
#define MPI_ERR_LASTCODE 100

/* Predefined handles. */
#define MPI_COMM_NULL ((MPI_Comm)0)
#define MPI_COMM_WORLD ((MPI_Comm)1)
#define MPI_COMM_SELF ((MPI_Comm)2)
#define MPI_GROUP_NULL ((MPI_Group)0)
#define MPI_GROUP_EMPTY ((MPI_Group)1)
#define MPI_REQUEST_NULL ((MPI_Request)0)
#define MPI_MESSAGE_NULL ((MPI_Message)0)
#define MPI_MESSAGE_NO_PROC ((MPI_Message)1)
#define MPI_ERRHANDLER_NULL ((MPI_Errhandler)0)
#define MPI_ERRORS_ARE_FATAL ((MPI_Errhandler)1)
#define MPI_ERRORS_RETURN ((MPI_Errhandler)2)
#define MPI_INFO_NULL ((MPI_Info)0)
#define MPI_INFO_ENV ((MPI_Info)1)
#define MPI_WIN_NULL ((MPI_Win)0)
#define MPI_FILE_NULL ((MPI_File)0)
#define MPI_SESSION_NULL ((MPI_Session)0)

/* Wildcards and special values. */
#define MPI_ANY_SOURCE (-1)
#define MPI_ANY_TAG (-1)
#define MPI_PROC_NULL (-2)
#define MPI_ROOT (-3)
#define MPI_UNDEFINED (-32766)
#define MPI_BOTTOM ((void *)0)
#define MPI_IN_PLACE ((void *)-1)
#define MPI_STATUS_IGNORE ((MPI_Status *)0)
#define MPI_STATUSES_IGNORE ((MPI_Status *)0)
#define MPI_ERRCODES_IGNORE ((int *)0)
#define MPI_ARGV_NULL ((char **)0)
#define MPI_ARGVS_NULL ((char ***)0)
#define MPI_UNWEIGHTED ((int *)-1)
#define MPI_WEIGHTS_EMPTY ((int *)-2)

#define MPI_MAX_PROCESSOR_NAME 256
#define MPI_MAX_ERROR_STRING 512
#define MPI_MAX_LIBRARY_VERSION_STRING 256
#define MPI_MAX_OBJECT_NAME 128
#define MPI_MAX_INFO_KEY 255
#define MPI_MAX_INFO_VAL 1024
#define MPI_MAX_PORT_NAME 256
#define MPI_MAX_DATAREP_STRING 128
#define MPI_MAX_PSET_NAME_LEN 256
#define MPI_MAX_STRINGTAG_LEN 256
#define MPI_BSEND_OVERHEAD 64

#define MPI_THREAD_SINGLE 0
#define MPI_THREAD_FUNNELED 1
#define MPI_THREAD_SERIALIZED 2
#define MPI_THREAD_MULTIPLE 3

#define MPI_IDENT 0
#define MPI_CONGRUENT 1
#define MPI_SIMILAR 2
#define MPI_UNEQUAL 3

#define MPI_KEYVAL_INVALID 0
#define MPI_TAG_UB 100
#define MPI_HOST 101
#define MPI_IO 102
#define MPI_WTIME_IS_GLOBAL 103
#define MPI_UNIVERSE_SIZE 104
#define MPI_LASTUSEDCODE 105
#define MPI_APPNUM 106
#define MPI_WIN_BASE 107
#define MPI_WIN_SIZE 108
#define MPI_WIN_DISP_UNIT 109
#define MPI_WIN_CREATE_FLAVOR 110
#define MPI_WIN_MODEL 111

#define MPI_COMM_TYPE_SHARED 1

#define MPI_GRAPH 1
#define MPI_CART 2
#define MPI_DIST_GRAPH 3

#define MPI_ORDER_C 0
#define MPI_ORDER_FORTRAN 1
#define MPI_DISTRIBUTE_BLOCK 0
#define MPI_DISTRIBUTE_CYCLIC 1
#define MPI_DISTRIBUTE_NONE 2
#define MPI_DISTRIBUTE_DFLT_DARG (-1)

#define MPI_TYPECLASS_INTEGER 1
#define MPI_TYPECLASS_REAL 2
#define MPI_TYPECLASS_COMPLEX 3

#define MPI_COMBINER_NAMED 0
#define MPI_COMBINER_DUP 1
#define MPI_COMBINER_CONTIGUOUS 2
#define MPI_COMBINER_VECTOR 3
#define MPI_COMBINER_HVECTOR 4
#define MPI_COMBINER_INDEXED 5
#define MPI_COMBINER_HINDEXED 6
#define MPI_COMBINER_INDEXED_BLOCK 7
#define MPI_COMBINER_HINDEXED_BLOCK 8
#define MPI_COMBINER_STRUCT 9
#define MPI_COMBINER_SUBARRAY 10
#define MPI_COMBINER_DARRAY 11
#define MPI_COMBINER_RESIZED 12

#define MPI_LOCK_EXCLUSIVE 1
#define MPI_LOCK_SHARED 2
#define MPI_MODE_NOCHECK 1024
#define MPI_MODE_NOSTORE 2048
#define MPI_MODE_NOPUT 4096
#define MPI_MODE_NOPRECEDE 8192
#define MPI_MODE_NOSUCCEED 16384
#define MPI_WIN_FLAVOR_CREATE 1
#define MPI_WIN_FLAVOR_ALLOCATE 2
#define MPI_WIN_FLAVOR_DYNAMIC 3
#define MPI_WIN_FLAVOR_SHARED 4
#define MPI_WIN_SEPARATE 1
#define MPI_WIN_UNIFIED 2

#define MPI_MODE_CREATE 1
#define MPI_MODE_RDONLY 2
#define MPI_MODE_WRONLY 4
#define MPI_MODE_RDWR 8
#define MPI_MODE_DELETE_ON_CLOSE 16
#define MPI_MODE_UNIQUE_OPEN 32
#define MPI_MODE_EXCL 64
#define MPI_MODE_APPEND 128
#define MPI_MODE_SEQUENTIAL 256
#define MPIO_USES_MPI_REQUEST 1
#define MPIO_Request MPI_Request
#define MPIO_Wait MPI_Wait
#define MPIO_Test MPI_Test
#define MPI_SEEK_SET 600
#define MPI_SEEK_CUR 602
#define MPI_SEEK_END 604
#define MPI_DISPLACEMENT_CURRENT (-54278278)

/* Operations. */
#define MPI_OP_NULL ((MPI_Op)0)
#define MPI_MAX ((MPI_Op)1)
#define MPI_MIN ((MPI_Op)2)
#define MPI_SUM ((MPI_Op)3)
#define MPI_PROD ((MPI_Op)4)
#define MPI_LAND ((MPI_Op)5)
#define MPI_BAND ((MPI_Op)6)
#define MPI_LOR ((MPI_Op)7)
#define MPI_BOR ((MPI_Op)8)
#define MPI_LXOR ((MPI_Op)9)
#define MPI_BXOR ((MPI_Op)10)
#define MPI_MAXLOC ((MPI_Op)11)
#define MPI_MINLOC ((MPI_Op)12)
#define MPI_REPLACE ((MPI_Op)13)
#define MPI_NO_OP ((MPI_Op)14)

/* Datatypes. */
#define MPI_DATATYPE_NULL ((MPI_Datatype)0)
#define MPI_CHAR ((MPI_Datatype)1)
#define MPI_SIGNED_CHAR ((MPI_Datatype)2)
#define MPI_UNSIGNED_CHAR ((MPI_Datatype)3)
#define MPI_BYTE ((MPI_Datatype)4)
#define MPI_WCHAR ((MPI_Datatype)5)
#define MPI_SHORT ((MPI_Datatype)6)
#define MPI_UNSIGNED_SHORT ((MPI_Datatype)7)
#define MPI_INT ((MPI_Datatype)8)
#define MPI_UNSIGNED ((MPI_Datatype)9)
#define MPI_LONG ((MPI_Datatype)10)
#define MPI_UNSIGNED_LONG ((MPI_Datatype)11)
#define MPI_LONG_LONG_INT ((MPI_Datatype)12)
#define MPI_LONG_LONG MPI_LONG_LONG_INT
#define MPI_UNSIGNED_LONG_LONG ((MPI_Datatype)13)
#define MPI_FLOAT ((MPI_Datatype)14)
#define MPI_DOUBLE ((MPI_Datatype)15)
#define MPI_LONG_DOUBLE ((MPI_Datatype)16)
#define MPI_C_BOOL ((MPI_Datatype)17)
#define MPI_INT8_T ((MPI_Datatype)18)
#define MPI_INT16_T ((MPI_Datatype)19)
#define MPI_INT32_T ((MPI_Datatype)20)
#define MPI_INT64_T ((MPI_Datatype)21)
#define MPI_UINT8_T ((MPI_Datatype)22)
#define MPI_UINT16_T ((MPI_Datatype)23)
#define MPI_UINT32_T ((MPI_Datatype)24)
#define MPI_UINT64_T ((MPI_Datatype)25)
#define MPI_AINT ((MPI_Datatype)26)
#define MPI_COUNT ((MPI_Datatype)27)
#define MPI_OFFSET ((MPI_Datatype)28)
#define MPI_C_FLOAT_COMPLEX ((MPI_Datatype)29)
#define MPI_C_COMPLEX MPI_C_FLOAT_COMPLEX
#define MPI_C_DOUBLE_COMPLEX ((MPI_Datatype)30)
#define MPI_FLOAT_INT ((MPI_Datatype)31)
#define MPI_DOUBLE_INT ((MPI_Datatype)32)
#define MPI_LONG_INT ((MPI_Datatype)33)
#define MPI_2INT ((MPI_Datatype)34)
#define MPI_SHORT_INT ((MPI_Datatype)35)
#define MPI_LONG_DOUBLE_INT ((MPI_Datatype)36)
#define MPI_PACKED ((MPI_Datatype)37)
#define MPI_LB ((MPI_Datatype)38)
#define MPI_UB ((MPI_Datatype)39)
#define MPI_C_LONG_DOUBLE_COMPLEX ((MPI_Datatype)40)
/* Fortran's types, for messages to and from what others have written. */
#define MPI_INTEGER MPI_INT
#define MPI_INTEGER1 MPI_INT8_T
#define MPI_INTEGER2 MPI_INT16_T
#define MPI_INTEGER4 MPI_INT32_T
#define MPI_INTEGER8 MPI_INT64_T
#define MPI_REAL MPI_FLOAT
#define MPI_REAL4 MPI_FLOAT
#define MPI_REAL8 MPI_DOUBLE
#define MPI_DOUBLE_PRECISION MPI_DOUBLE
#define MPI_COMPLEX MPI_C_FLOAT_COMPLEX
#define MPI_COMPLEX8 MPI_C_FLOAT_COMPLEX
#define MPI_COMPLEX16 MPI_C_DOUBLE_COMPLEX
#define MPI_DOUBLE_COMPLEX MPI_C_DOUBLE_COMPLEX
#define MPI_LOGICAL MPI_INT
#define MPI_CHARACTER MPI_CHAR
#define MPI_2INTEGER MPI_2INT
#define MPI_CXX_BOOL MPI_C_BOOL
#define MPI_CXX_FLOAT_COMPLEX MPI_C_FLOAT_COMPLEX
#define MPI_CXX_DOUBLE_COMPLEX MPI_C_DOUBLE_COMPLEX
#define MPI_CXX_LONG_DOUBLE_COMPLEX MPI_C_LONG_DOUBLE_COMPLEX

/* Functions that a program hands over. The agent calls them through the module's function table. */
typedef void(MPI_User_function)(void *invec, void *inoutvec, int *len, MPI_Datatype *type);
typedef int(MPI_Comm_copy_attr_function)(MPI_Comm, int keyval, void *extra_state, void *in, void *out, int *flag);
typedef int(MPI_Comm_delete_attr_function)(MPI_Comm, int keyval, void *value, void *extra_state);
typedef int(MPI_Type_copy_attr_function)(MPI_Datatype, int keyval, void *extra_state, void *in, void *out, int *flag);
typedef int(MPI_Type_delete_attr_function)(MPI_Datatype, int keyval, void *value, void *extra_state);
typedef int(MPI_Win_copy_attr_function)(MPI_Win, int keyval, void *extra_state, void *in, void *out, int *flag);
typedef int(MPI_Win_delete_attr_function)(MPI_Win, int keyval, void *value, void *extra_state);
typedef MPI_Comm_copy_attr_function MPI_Copy_function;
typedef MPI_Comm_delete_attr_function MPI_Delete_function;
typedef void(MPI_Comm_errhandler_function)(MPI_Comm *, int *, ...);
typedef void(MPI_Win_errhandler_function)(MPI_Win *, int *, ...);
typedef void(MPI_File_errhandler_function)(MPI_File *, int *, ...);
typedef void(MPI_Session_errhandler_function)(MPI_Session *, int *, ...);
typedef MPI_Comm_errhandler_function MPI_Comm_errhandler_fn;
typedef MPI_Win_errhandler_function MPI_Win_errhandler_fn;
typedef MPI_File_errhandler_function MPI_File_errhandler_fn;
typedef MPI_Comm_errhandler_function MPI_Handler_function;
typedef int(MPI_Grequest_query_function)(void *extra_state, MPI_Status *status);
typedef int(MPI_Grequest_free_function)(void *extra_state);
typedef int(MPI_Grequest_cancel_function)(void *extra_state, int complete);

/* Not functions but marks that the agent knows: 0 copies or deletes nothing, -1 copies the value as it is. */
#define MPI_COMM_NULL_COPY_FN ((MPI_Comm_copy_attr_function *)0)
#define MPI_COMM_DUP_FN ((MPI_Comm_copy_attr_function *)-1)
#define MPI_COMM_NULL_DELETE_FN ((MPI_Comm_delete_attr_function *)0)
#define MPI_TYPE_NULL_COPY_FN ((MPI_Type_copy_attr_function *)0)
#define MPI_TYPE_DUP_FN ((MPI_Type_copy_attr_function *)-1)
#define MPI_TYPE_NULL_DELETE_FN ((MPI_Type_delete_attr_function *)0)
#define MPI_WIN_NULL_COPY_FN ((MPI_Win_copy_attr_function *)0)
#define MPI_WIN_DUP_FN ((MPI_Win_copy_attr_function *)-1)
#define MPI_WIN_NULL_DELETE_FN ((MPI_Win_delete_attr_function *)0)
#define MPI_NULL_COPY_FN MPI_COMM_NULL_COPY_FN
#define MPI_DUP_FN MPI_COMM_DUP_FN
#define MPI_NULL_DELETE_FN MPI_COMM_NULL_DELETE_FN

/* A handle is the same number in C and Fortran. */
#define MPI_Comm_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Comm_f2c(handle) ((MPI_Comm)(handle))
#define MPI_Group_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Group_f2c(handle) ((MPI_Group)(handle))
#define MPI_Type_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Type_f2c(handle) ((MPI_Datatype)(handle))
#define MPI_Op_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Op_f2c(handle) ((MPI_Op)(handle))
#define MPI_Request_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Request_f2c(handle) ((MPI_Request)(handle))
#define MPI_Info_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Info_f2c(handle) ((MPI_Info)(handle))
#define MPI_Errhandler_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Errhandler_f2c(handle) ((MPI_Errhandler)(handle))
#define MPI_Message_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Message_f2c(handle) ((MPI_Message)(handle))
#define MPI_Win_c2f(handle) ((MPI_Fint)(handle))
#define MPI_Win_f2c(handle) ((MPI_Win)(handle))
#define MPI_File_c2f(handle) ((MPI_Fint)(handle))
#define MPI_File_f2c(handle) ((MPI_File)(handle))
#define PMPI_Win_c2f MPI_Win_c2f
#define PMPI_Win_f2c MPI_Win_f2c
#define PMPI_File_c2f MPI_File_c2f
#define PMPI_File_f2c MPI_File_f2c
#define PMPI_Comm_c2f MPI_Comm_c2f
#define PMPI_Comm_f2c MPI_Comm_f2c
#define PMPI_Group_c2f MPI_Group_c2f
#define PMPI_Group_f2c MPI_Group_f2c
#define PMPI_Type_c2f MPI_Type_c2f
#define PMPI_Type_f2c MPI_Type_f2c
#define PMPI_Op_c2f MPI_Op_c2f
#define PMPI_Op_f2c MPI_Op_f2c
#define PMPI_Request_c2f MPI_Request_c2f
#define PMPI_Request_f2c MPI_Request_f2c
#define PMPI_Info_c2f MPI_Info_c2f
#define PMPI_Info_f2c MPI_Info_f2c
#define PMPI_Errhandler_c2f MPI_Errhandler_c2f
#define PMPI_Errhandler_f2c MPI_Errhandler_f2c
#define PMPI_Message_c2f MPI_Message_c2f
#define PMPI_Message_f2c MPI_Message_f2c

/* PMPI_X is the same import, so profiling wrappers may define MPI_X (clang warns that it ignores the import then) and call PMPI_X. */
#define CLOUDSKIN_MPI(result, name, arguments)                                                                                 \
    result name arguments __attribute__((import_module("cloudskin_mpi"), import_name(#name)));                                 \
    result P##name arguments __attribute__((import_module("cloudskin_mpi"), import_name(#name)))

/* Environment. */
CLOUDSKIN_MPI(int, MPI_Init, (int *argc, char ***argv));
CLOUDSKIN_MPI(int, MPI_Init_thread, (int *argc, char ***argv, int required, int *provided));
CLOUDSKIN_MPI(int, MPI_Query_thread, (int *provided));
CLOUDSKIN_MPI(int, MPI_Is_thread_main, (int *flag));
CLOUDSKIN_MPI(int, MPI_Initialized, (int *flag));
CLOUDSKIN_MPI(int, MPI_Finalize, (void));
CLOUDSKIN_MPI(int, MPI_Finalized, (int *flag));
CLOUDSKIN_MPI(int, MPI_Abort, (MPI_Comm comm, int errorcode));
CLOUDSKIN_MPI(int, MPI_Get_processor_name, (char *name, int *resultlen));
CLOUDSKIN_MPI(int, MPI_Get_version, (int *version, int *subversion));
CLOUDSKIN_MPI(int, MPI_Get_library_version, (char *version, int *resultlen));
CLOUDSKIN_MPI(double, MPI_Wtime, (void));
CLOUDSKIN_MPI(double, MPI_Wtick, (void));
CLOUDSKIN_MPI(int, MPI_Pcontrol, (const int level, ...));
CLOUDSKIN_MPI(int, MPI_Alloc_mem, (MPI_Aint size, MPI_Info info, void *baseptr));
CLOUDSKIN_MPI(int, MPI_Free_mem, (void *base));
CLOUDSKIN_MPI(int, MPI_Get_address, (const void *location, MPI_Aint *address));
CLOUDSKIN_MPI(int, MPI_Address, (void *location, MPI_Aint *address));
CLOUDSKIN_MPI(MPI_Aint, MPI_Aint_add, (MPI_Aint base, MPI_Aint disp));
CLOUDSKIN_MPI(MPI_Aint, MPI_Aint_diff, (MPI_Aint addr1, MPI_Aint addr2));

/* Point to point. */
CLOUDSKIN_MPI(int, MPI_Send, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Bsend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Ssend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Rsend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Recv, (void *buf, int count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Isend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Ibsend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Issend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Irsend, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Irecv, (void *buf, int count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Send_init, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Bsend_init, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Ssend_init, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Rsend_init, (const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Recv_init, (void *buf, int count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Start, (MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Startall, (int count, MPI_Request requests[]));
CLOUDSKIN_MPI(int, MPI_Sendrecv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, int dest, int sendtag, void
    *recvbuf, int recvcount, MPI_Datatype recvtype, int source, int recvtag, MPI_Comm comm, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Sendrecv_replace, (void *buf, int count, MPI_Datatype type, int dest, int sendtag, int source, int
    recvtag, MPI_Comm comm, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Isendrecv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, int dest, int sendtag, void
    *recvbuf, int recvcount, MPI_Datatype recvtype, int source, int recvtag, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Isendrecv_replace, (void *buf, int count, MPI_Datatype type, int dest, int sendtag, int source, int
    recvtag, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Probe, (int source, int tag, MPI_Comm comm, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Iprobe, (int source, int tag, MPI_Comm comm, int *flag, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Mprobe, (int source, int tag, MPI_Comm comm, MPI_Message *message, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Improbe, (int source, int tag, MPI_Comm comm, int *flag, MPI_Message *message, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Mrecv, (void *buf, int count, MPI_Datatype type, MPI_Message *message, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Imrecv, (void *buf, int count, MPI_Datatype type, MPI_Message *message, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Wait, (MPI_Request *request, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Waitall, (int count, MPI_Request requests[], MPI_Status statuses[]));
CLOUDSKIN_MPI(int, MPI_Waitany, (int count, MPI_Request requests[], int *index, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Waitsome, (int incount, MPI_Request requests[], int *outcount, int indices[], MPI_Status statuses[]));
CLOUDSKIN_MPI(int, MPI_Test, (MPI_Request *request, int *flag, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Testall, (int count, MPI_Request requests[], int *flag, MPI_Status statuses[]));
CLOUDSKIN_MPI(int, MPI_Testany, (int count, MPI_Request requests[], int *index, int *flag, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Testsome, (int incount, MPI_Request requests[], int *outcount, int indices[], MPI_Status statuses[]));
CLOUDSKIN_MPI(int, MPI_Request_free, (MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Request_get_status, (MPI_Request request, int *flag, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_Cancel, (MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Test_cancelled, (const MPI_Status *status, int *flag));
CLOUDSKIN_MPI(int, MPI_Get_count, (const MPI_Status *status, MPI_Datatype type, int *count));
CLOUDSKIN_MPI(int, MPI_Get_elements, (const MPI_Status *status, MPI_Datatype type, int *count));
CLOUDSKIN_MPI(int, MPI_Get_elements_x, (const MPI_Status *status, MPI_Datatype type, MPI_Count *count));
CLOUDSKIN_MPI(int, MPI_Status_set_elements, (MPI_Status *status, MPI_Datatype type, int count));
CLOUDSKIN_MPI(int, MPI_Status_set_elements_x, (MPI_Status *status, MPI_Datatype type, MPI_Count count));
CLOUDSKIN_MPI(int, MPI_Status_set_cancelled, (MPI_Status *status, int flag));
CLOUDSKIN_MPI(int, MPI_Buffer_attach, (void *buffer, int size));
CLOUDSKIN_MPI(int, MPI_Buffer_detach, (void *buffer_addr, int *size));
CLOUDSKIN_MPI(int, MPI_Grequest_start, (MPI_Grequest_query_function *query_fn, MPI_Grequest_free_function *free_fn,
    MPI_Grequest_cancel_function *cancel_fn, void *extra_state, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Grequest_complete, (MPI_Request request));

/* Collectives (each also has a form that returns at once, below). */
CLOUDSKIN_MPI(int, MPI_Barrier, (MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Bcast, (void *buf, int count, MPI_Datatype type, int root, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Gather, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Gatherv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
    recvcounts[], const int displs[], MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Scatter, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Scatterv, (const void *sendbuf, const int sendcounts[], const int displs[], MPI_Datatype sendtype, void
    *recvbuf, int recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Allgather, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Allgatherv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
    recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Alltoall, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Alltoallv, (const void *sendbuf, const int sendcounts[], const int sdispls[], MPI_Datatype sendtype, void
    *recvbuf, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Alltoallw, (const void *sendbuf, const int sendcounts[], const int sdispls[], const MPI_Datatype
    sendtypes[], void *recvbuf, const int recvcounts[], const int rdispls[], const MPI_Datatype recvtypes[], MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Reduce, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm
    comm));
CLOUDSKIN_MPI(int, MPI_Allreduce, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Reduce_scatter, (const void *sendbuf, void *recvbuf, const int recvcounts[], MPI_Datatype type, MPI_Op
    op, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Reduce_scatter_block, (const void *sendbuf, void *recvbuf, int recvcount, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Scan, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Exscan, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Neighbor_allgather, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int
    recvcount, MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Neighbor_allgatherv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
    recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Neighbor_alltoall, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int
    recvcount, MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Neighbor_alltoallv, (const void *sendbuf, const int sendcounts[], const int sdispls[], MPI_Datatype
    sendtype, void *recvbuf, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Neighbor_alltoallw, (const void *sendbuf, const int sendcounts[], const MPI_Aint sdispls[], const
    MPI_Datatype sendtypes[], void *recvbuf, const int recvcounts[], const MPI_Aint rdispls[], const MPI_Datatype recvtypes[],
    MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Ibarrier, (MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ibcast, (void *buf, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Igather, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Igatherv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
    recvcounts[], const int displs[], MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iscatter, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iscatterv, (const void *sendbuf, const int sendcounts[], const int displs[], MPI_Datatype sendtype, void
    *recvbuf, int recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iallgather, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iallgatherv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
    recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ialltoall, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
    MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ialltoallv, (const void *sendbuf, const int sendcounts[], const int sdispls[], MPI_Datatype sendtype,
    void *recvbuf, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ialltoallw, (const void *sendbuf, const int sendcounts[], const int sdispls[], const MPI_Datatype
    sendtypes[], void *recvbuf, const int recvcounts[], const int rdispls[], const MPI_Datatype recvtypes[], MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ireduce, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm
    comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iallreduce, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ireduce_scatter, (const void *sendbuf, void *recvbuf, const int recvcounts[], MPI_Datatype type, MPI_Op
    op, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ireduce_scatter_block, (const void *sendbuf, void *recvbuf, int recvcount, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iscan, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Iexscan, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ineighbor_allgather, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int
    recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ineighbor_allgatherv, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const
    int recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ineighbor_alltoall, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int
    recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Ineighbor_alltoallv, (const void *sendbuf, const int sendcounts[], const int sdispls[], MPI_Datatype
    sendtype, void *recvbuf, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_Ineighbor_alltoallw, (const void *sendbuf, const int sendcounts[], const MPI_Aint sdispls[], const
    MPI_Datatype sendtypes[], void *recvbuf, const int recvcounts[], const MPI_Aint rdispls[], const MPI_Datatype recvtypes[],
    MPI_Comm comm, MPI_Request *request));

/* Persistent collectives. */
CLOUDSKIN_MPI(int, MPI_Barrier_init, (MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Bcast_init, (void *buf, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Info info, MPI_Request
              *request));
CLOUDSKIN_MPI(int, MPI_Reduce_init, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, int root,
              MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Allreduce_init, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm
              comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Scan_init, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
              MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Exscan_init, (const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
              MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Reduce_scatter_block_init, (const void *sendbuf, void *recvbuf, int recvcount, MPI_Datatype type, MPI_Op
              op, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Reduce_scatter_init, (const void *sendbuf, void *recvbuf, const int recvcounts[], MPI_Datatype type,
              MPI_Op op, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Gather_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
              MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Gatherv_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
              recvcounts[], const int displs[], MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request
              *request));
CLOUDSKIN_MPI(int, MPI_Scatter_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
              MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Scatterv_init, (const void *sendbuf, const int sendcounts[], const int displs[], MPI_Datatype sendtype,
              void *recvbuf, int recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request
              *request));
CLOUDSKIN_MPI(int, MPI_Allgather_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
              MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Allgatherv_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, const int
              recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Alltoall_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int recvcount,
              MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Alltoallv_init, (const void *sendbuf, const int sendcounts[], const int sdispls[], MPI_Datatype sendtype,
              void *recvbuf, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info,
              MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Alltoallw_init, (const void *sendbuf, const int sendcounts[], const int sdispls[], const MPI_Datatype
              sendtypes[], void *recvbuf, const int recvcounts[], const int rdispls[], const MPI_Datatype recvtypes[], MPI_Comm
              comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Neighbor_allgather_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int
              recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Neighbor_allgatherv_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
              const int recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request
              *request));
CLOUDSKIN_MPI(int, MPI_Neighbor_alltoall_init, (const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf, int
              recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Neighbor_alltoallv_init, (const void *sendbuf, const int sendcounts[], const int sdispls[], MPI_Datatype
              sendtype, void *recvbuf, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm,
              MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Neighbor_alltoallw_init, (const void *sendbuf, const int sendcounts[], const MPI_Aint sdispls[], const
              MPI_Datatype sendtypes[], void *recvbuf, const int recvcounts[], const MPI_Aint rdispls[], const MPI_Datatype
              recvtypes[], MPI_Comm comm, MPI_Info info, MPI_Request *request));

/* Reductions. */
CLOUDSKIN_MPI(int, MPI_Op_create, (MPI_User_function *function, int commute, MPI_Op *op));
CLOUDSKIN_MPI(int, MPI_Op_free, (MPI_Op *op));
CLOUDSKIN_MPI(int, MPI_Op_commutative, (MPI_Op op, int *commute));
CLOUDSKIN_MPI(int, MPI_Reduce_local, (const void *inbuf, void *inoutbuf, int count, MPI_Datatype type, MPI_Op op));

/* Communicators and groups. */
CLOUDSKIN_MPI(int, MPI_Comm_size, (MPI_Comm comm, int *size));
CLOUDSKIN_MPI(int, MPI_Comm_rank, (MPI_Comm comm, int *rank));
CLOUDSKIN_MPI(int, MPI_Comm_compare, (MPI_Comm comm1, MPI_Comm comm2, int *result));
CLOUDSKIN_MPI(int, MPI_Comm_dup, (MPI_Comm comm, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Comm_dup_with_info, (MPI_Comm comm, MPI_Info info, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Comm_idup, (MPI_Comm comm, MPI_Comm *newcomm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Comm_idup_with_info, (MPI_Comm comm, MPI_Info info, MPI_Comm *newcomm, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Comm_create, (MPI_Comm comm, MPI_Group group, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Comm_create_group, (MPI_Comm comm, MPI_Group group, int tag, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Comm_split, (MPI_Comm comm, int color, int key, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Comm_split_type, (MPI_Comm comm, int split_type, int key, MPI_Info info, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Comm_free, (MPI_Comm *comm));
CLOUDSKIN_MPI(int, MPI_Comm_disconnect, (MPI_Comm *comm));
CLOUDSKIN_MPI(int, MPI_Comm_group, (MPI_Comm comm, MPI_Group *group));
CLOUDSKIN_MPI(int, MPI_Comm_set_name, (MPI_Comm comm, const char *name));
CLOUDSKIN_MPI(int, MPI_Comm_get_name, (MPI_Comm comm, char *name, int *resultlen));
CLOUDSKIN_MPI(int, MPI_Comm_set_info, (MPI_Comm comm, MPI_Info info));
CLOUDSKIN_MPI(int, MPI_Comm_get_info, (MPI_Comm comm, MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_Comm_test_inter, (MPI_Comm comm, int *flag));
CLOUDSKIN_MPI(int, MPI_Comm_remote_size, (MPI_Comm comm, int *size));
CLOUDSKIN_MPI(int, MPI_Comm_remote_group, (MPI_Comm comm, MPI_Group *group));
CLOUDSKIN_MPI(int, MPI_Intercomm_create, (MPI_Comm local_comm, int local_leader, MPI_Comm peer_comm, int remote_leader, int tag,
    MPI_Comm *newintercomm));
CLOUDSKIN_MPI(int, MPI_Intercomm_merge, (MPI_Comm intercomm, int high, MPI_Comm *newintracomm));
CLOUDSKIN_MPI(int, MPI_Comm_get_parent, (MPI_Comm *parent));
CLOUDSKIN_MPI(int, MPI_Comm_spawn, (const char *command, char *argv[], int maxprocs, MPI_Info info, int root, MPI_Comm comm,
    MPI_Comm *intercomm, int errcodes[]));
CLOUDSKIN_MPI(int, MPI_Group_size, (MPI_Group group, int *size));
CLOUDSKIN_MPI(int, MPI_Group_rank, (MPI_Group group, int *rank));
CLOUDSKIN_MPI(int, MPI_Group_translate_ranks, (MPI_Group group1, int n, const int ranks1[], MPI_Group group2, int ranks2[]));
CLOUDSKIN_MPI(int, MPI_Group_compare, (MPI_Group group1, MPI_Group group2, int *result));
CLOUDSKIN_MPI(int, MPI_Group_union, (MPI_Group group1, MPI_Group group2, MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_intersection, (MPI_Group group1, MPI_Group group2, MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_difference, (MPI_Group group1, MPI_Group group2, MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_incl, (MPI_Group group, int n, const int ranks[], MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_excl, (MPI_Group group, int n, const int ranks[], MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_range_incl, (MPI_Group group, int n, int ranges[][3], MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_range_excl, (MPI_Group group, int n, int ranges[][3], MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Group_free, (MPI_Group *group));

/* Attributes. */
CLOUDSKIN_MPI(int, MPI_Comm_create_keyval, (MPI_Comm_copy_attr_function *copy_fn, MPI_Comm_delete_attr_function *delete_fn, int
    *keyval, void *extra_state));
CLOUDSKIN_MPI(int, MPI_Comm_free_keyval, (int *keyval));
CLOUDSKIN_MPI(int, MPI_Comm_set_attr, (MPI_Comm comm, int keyval, void *value));
CLOUDSKIN_MPI(int, MPI_Comm_get_attr, (MPI_Comm comm, int keyval, void *value, int *flag));
CLOUDSKIN_MPI(int, MPI_Comm_delete_attr, (MPI_Comm comm, int keyval));
CLOUDSKIN_MPI(int, MPI_Type_create_keyval, (MPI_Type_copy_attr_function *copy_fn, MPI_Type_delete_attr_function *delete_fn, int
    *keyval, void *extra_state));
CLOUDSKIN_MPI(int, MPI_Type_free_keyval, (int *keyval));
CLOUDSKIN_MPI(int, MPI_Type_set_attr, (MPI_Datatype type, int keyval, void *value));
CLOUDSKIN_MPI(int, MPI_Type_get_attr, (MPI_Datatype type, int keyval, void *value, int *flag));
CLOUDSKIN_MPI(int, MPI_Type_delete_attr, (MPI_Datatype type, int keyval));
CLOUDSKIN_MPI(int, MPI_Win_create_keyval, (MPI_Win_copy_attr_function *copy_fn, MPI_Win_delete_attr_function *delete_fn, int
    *keyval, void *extra_state));
CLOUDSKIN_MPI(int, MPI_Win_free_keyval, (int *keyval));
CLOUDSKIN_MPI(int, MPI_Win_set_attr, (MPI_Win win, int keyval, void *value));
CLOUDSKIN_MPI(int, MPI_Win_get_attr, (MPI_Win win, int keyval, void *value, int *flag));
CLOUDSKIN_MPI(int, MPI_Win_delete_attr, (MPI_Win win, int keyval));
CLOUDSKIN_MPI(int, MPI_Keyval_create, (MPI_Copy_function *copy_fn, MPI_Delete_function *delete_fn, int *keyval, void
    *extra_state));
CLOUDSKIN_MPI(int, MPI_Keyval_free, (int *keyval));
CLOUDSKIN_MPI(int, MPI_Attr_put, (MPI_Comm comm, int keyval, void *value));
CLOUDSKIN_MPI(int, MPI_Attr_get, (MPI_Comm comm, int keyval, void *value, int *flag));
CLOUDSKIN_MPI(int, MPI_Attr_delete, (MPI_Comm comm, int keyval));

/* Errors. */
CLOUDSKIN_MPI(int, MPI_Error_string, (int errorcode, char *string, int *resultlen));
CLOUDSKIN_MPI(int, MPI_Error_class, (int errorcode, int *errorclass));
CLOUDSKIN_MPI(int, MPI_Add_error_class, (int *errorclass));
CLOUDSKIN_MPI(int, MPI_Add_error_code, (int errorclass, int *errorcode));
CLOUDSKIN_MPI(int, MPI_Add_error_string, (int errorcode, const char *string));
CLOUDSKIN_MPI(int, MPI_Comm_create_errhandler, (MPI_Comm_errhandler_function *function, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Comm_set_errhandler, (MPI_Comm comm, MPI_Errhandler errhandler));
CLOUDSKIN_MPI(int, MPI_Comm_get_errhandler, (MPI_Comm comm, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Comm_call_errhandler, (MPI_Comm comm, int errorcode));
CLOUDSKIN_MPI(int, MPI_Win_create_errhandler, (MPI_Win_errhandler_function *function, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Win_set_errhandler, (MPI_Win win, MPI_Errhandler errhandler));
CLOUDSKIN_MPI(int, MPI_Win_get_errhandler, (MPI_Win win, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Win_call_errhandler, (MPI_Win win, int errorcode));
CLOUDSKIN_MPI(int, MPI_File_create_errhandler, (MPI_File_errhandler_function *function, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_File_set_errhandler, (MPI_File file, MPI_Errhandler errhandler));
CLOUDSKIN_MPI(int, MPI_File_get_errhandler, (MPI_File file, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_File_call_errhandler, (MPI_File file, int errorcode));
CLOUDSKIN_MPI(int, MPI_Errhandler_free, (MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Errhandler_create, (MPI_Handler_function *function, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Errhandler_set, (MPI_Comm comm, MPI_Errhandler errhandler));
CLOUDSKIN_MPI(int, MPI_Errhandler_get, (MPI_Comm comm, MPI_Errhandler *errhandler));

/* Datatypes. */
CLOUDSKIN_MPI(int, MPI_Type_size, (MPI_Datatype type, int *size));
CLOUDSKIN_MPI(int, MPI_Type_size_x, (MPI_Datatype type, MPI_Count *size));
CLOUDSKIN_MPI(int, MPI_Type_get_extent, (MPI_Datatype type, MPI_Aint *lb, MPI_Aint *extent));
CLOUDSKIN_MPI(int, MPI_Type_get_extent_x, (MPI_Datatype type, MPI_Count *lb, MPI_Count *extent));
CLOUDSKIN_MPI(int, MPI_Type_get_true_extent, (MPI_Datatype type, MPI_Aint *lb, MPI_Aint *extent));
CLOUDSKIN_MPI(int, MPI_Type_get_true_extent_x, (MPI_Datatype type, MPI_Count *lb, MPI_Count *extent));
CLOUDSKIN_MPI(int, MPI_Type_extent, (MPI_Datatype type, MPI_Aint *extent));
CLOUDSKIN_MPI(int, MPI_Type_lb, (MPI_Datatype type, MPI_Aint *displacement));
CLOUDSKIN_MPI(int, MPI_Type_ub, (MPI_Datatype type, MPI_Aint *displacement));
CLOUDSKIN_MPI(int, MPI_Type_commit, (MPI_Datatype *type));
CLOUDSKIN_MPI(int, MPI_Type_free, (MPI_Datatype *type));
CLOUDSKIN_MPI(int, MPI_Type_dup, (MPI_Datatype type, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_contiguous, (int count, MPI_Datatype oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_vector, (int count, int blocklength, int stride, MPI_Datatype oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_hvector, (int count, int blocklength, MPI_Aint stride, MPI_Datatype oldtype, MPI_Datatype
    *newtype));
CLOUDSKIN_MPI(int, MPI_Type_hvector, (int count, int blocklength, MPI_Aint stride, MPI_Datatype oldtype, MPI_Datatype
    *newtype));
CLOUDSKIN_MPI(int, MPI_Type_indexed, (int count, const int blocklengths[], const int displacements[], MPI_Datatype oldtype,
    MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_indexed_block, (int count, int blocklength, const int displacements[], MPI_Datatype oldtype,
    MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_hindexed, (int count, const int blocklengths[], const MPI_Aint displacements[], MPI_Datatype
    oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_hindexed_block, (int count, int blocklength, const MPI_Aint displacements[], MPI_Datatype
    oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_hindexed, (int count, int blocklengths[], MPI_Aint displacements[], MPI_Datatype oldtype,
    MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_struct, (int count, const int blocklengths[], const MPI_Aint displacements[], const
    MPI_Datatype types[], MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_struct, (int count, int blocklengths[], MPI_Aint displacements[], MPI_Datatype types[], MPI_Datatype
    *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_subarray, (int ndims, const int sizes[], const int subsizes[], const int starts[], int order,
    MPI_Datatype oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_darray, (int size, int rank, int ndims, const int gsizes[], const int distribs[], const int
    dargs[], const int psizes[], int order, MPI_Datatype oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_create_resized, (MPI_Datatype oldtype, MPI_Aint lb, MPI_Aint extent, MPI_Datatype *newtype));
CLOUDSKIN_MPI(int, MPI_Type_get_envelope, (MPI_Datatype type, int *num_integers, int *num_addresses, int *num_datatypes, int
    *combiner));
CLOUDSKIN_MPI(int, MPI_Type_get_contents, (MPI_Datatype type, int max_integers, int max_addresses, int max_datatypes, int
    integers[], MPI_Aint addresses[], MPI_Datatype types[]));
CLOUDSKIN_MPI(int, MPI_Type_set_name, (MPI_Datatype type, const char *name));
CLOUDSKIN_MPI(int, MPI_Type_get_name, (MPI_Datatype type, char *name, int *resultlen));
CLOUDSKIN_MPI(int, MPI_Type_match_size, (int typeclass, int size, MPI_Datatype *type));
CLOUDSKIN_MPI(int, MPI_Pack, (const void *inbuf, int incount, MPI_Datatype type, void *outbuf, int outsize, int *position,
    MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Unpack, (const void *inbuf, int insize, int *position, void *outbuf, int outcount, MPI_Datatype type,
    MPI_Comm comm));
CLOUDSKIN_MPI(int, MPI_Pack_size, (int incount, MPI_Datatype type, MPI_Comm comm, int *size));
CLOUDSKIN_MPI(int, MPI_Pack_external, (const char datarep[], const void *inbuf, int incount, MPI_Datatype type, void *outbuf,
    MPI_Aint outsize, MPI_Aint *position));
CLOUDSKIN_MPI(int, MPI_Unpack_external, (const char datarep[], const void *inbuf, MPI_Aint insize, MPI_Aint *position, void
    *outbuf, int outcount, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_Pack_external_size, (const char datarep[], int incount, MPI_Datatype type, MPI_Aint *size));

/* Topologies. */
CLOUDSKIN_MPI(int, MPI_Dims_create, (int nnodes, int ndims, int dims[]));
CLOUDSKIN_MPI(int, MPI_Cart_create, (MPI_Comm comm, int ndims, const int dims[], const int periods[], int reorder, MPI_Comm
    *newcomm));
CLOUDSKIN_MPI(int, MPI_Cart_get, (MPI_Comm comm, int maxdims, int dims[], int periods[], int coords[]));
CLOUDSKIN_MPI(int, MPI_Cart_rank, (MPI_Comm comm, const int coords[], int *rank));
CLOUDSKIN_MPI(int, MPI_Cart_coords, (MPI_Comm comm, int rank, int maxdims, int coords[]));
CLOUDSKIN_MPI(int, MPI_Cart_shift, (MPI_Comm comm, int direction, int disp, int *source, int *dest));
CLOUDSKIN_MPI(int, MPI_Cart_sub, (MPI_Comm comm, const int remain_dims[], MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Cart_map, (MPI_Comm comm, int ndims, const int dims[], const int periods[], int *newrank));
CLOUDSKIN_MPI(int, MPI_Cartdim_get, (MPI_Comm comm, int *ndims));
CLOUDSKIN_MPI(int, MPI_Topo_test, (MPI_Comm comm, int *status));
CLOUDSKIN_MPI(int, MPI_Graph_create, (MPI_Comm comm, int nnodes, const int index[], const int edges[], int reorder, MPI_Comm
    *newcomm));
CLOUDSKIN_MPI(int, MPI_Graph_get, (MPI_Comm comm, int maxindex, int maxedges, int index[], int edges[]));
CLOUDSKIN_MPI(int, MPI_Graphdims_get, (MPI_Comm comm, int *nnodes, int *nedges));
CLOUDSKIN_MPI(int, MPI_Graph_neighbors, (MPI_Comm comm, int rank, int maxneighbors, int neighbors[]));
CLOUDSKIN_MPI(int, MPI_Graph_neighbors_count, (MPI_Comm comm, int rank, int *nneighbors));
CLOUDSKIN_MPI(int, MPI_Graph_map, (MPI_Comm comm, int nnodes, const int index[], const int edges[], int *newrank));
/* Linked into the program (runtime.c), not asked of the agent. */
int MPI_Dist_graph_create(MPI_Comm comm, int n, const int sources[], const int degrees[], const int destinations[], const int
    weights[], MPI_Info info, int reorder, MPI_Comm *newcomm);
int PMPI_Dist_graph_create(MPI_Comm comm, int n, const int sources[], const int degrees[], const int destinations[], const int
    weights[], MPI_Info info, int reorder, MPI_Comm *newcomm);
CLOUDSKIN_MPI(int, MPI_Dist_graph_create_adjacent, (MPI_Comm comm, int indegree, const int sources[], const int sourceweights[],
    int outdegree, const int destinations[], const int destweights[], MPI_Info info, int reorder, MPI_Comm *newcomm));
CLOUDSKIN_MPI(int, MPI_Dist_graph_neighbors, (MPI_Comm comm, int maxindegree, int sources[], int sourceweights[], int
    maxoutdegree, int destinations[], int destweights[]));
CLOUDSKIN_MPI(int, MPI_Dist_graph_neighbors_count, (MPI_Comm comm, int *indegree, int *outdegree, int *weighted));

/* Info. */
CLOUDSKIN_MPI(int, MPI_Info_create, (MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_Info_dup, (MPI_Info info, MPI_Info *newinfo));
CLOUDSKIN_MPI(int, MPI_Info_free, (MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_Info_set, (MPI_Info info, const char *key, const char *value));
CLOUDSKIN_MPI(int, MPI_Info_get, (MPI_Info info, const char *key, int valuelen, char *value, int *flag));
CLOUDSKIN_MPI(int, MPI_Info_create_env, (int argc, char *argv[], MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_Info_get_string, (MPI_Info info, const char *key, int *buflen, char *value, int *flag));
CLOUDSKIN_MPI(int, MPI_Info_get_valuelen, (MPI_Info info, const char *key, int *valuelen, int *flag));
CLOUDSKIN_MPI(int, MPI_Info_get_nkeys, (MPI_Info info, int *nkeys));
CLOUDSKIN_MPI(int, MPI_Info_get_nthkey, (MPI_Info info, int n, char *key));
CLOUDSKIN_MPI(int, MPI_Info_delete, (MPI_Info info, const char *key));

/* One-sided. */
CLOUDSKIN_MPI(int, MPI_Win_create, (void *base, MPI_Aint size, int disp_unit, MPI_Info info, MPI_Comm comm, MPI_Win *win));
CLOUDSKIN_MPI(int, MPI_Win_allocate, (MPI_Aint size, int disp_unit, MPI_Info info, MPI_Comm comm, void *baseptr, MPI_Win *win));
CLOUDSKIN_MPI(int, MPI_Win_allocate_shared, (MPI_Aint size, int disp_unit, MPI_Info info, MPI_Comm comm, void *baseptr, MPI_Win
    *win));
CLOUDSKIN_MPI(int, MPI_Win_shared_query, (MPI_Win win, int rank, MPI_Aint *size, int *disp_unit, void *baseptr));
CLOUDSKIN_MPI(int, MPI_Win_create_dynamic, (MPI_Info info, MPI_Comm comm, MPI_Win *win));
CLOUDSKIN_MPI(int, MPI_Win_attach, (MPI_Win win, void *base, MPI_Aint size));
CLOUDSKIN_MPI(int, MPI_Win_detach, (MPI_Win win, const void *base));
CLOUDSKIN_MPI(int, MPI_Win_free, (MPI_Win *win));
CLOUDSKIN_MPI(int, MPI_Win_get_group, (MPI_Win win, MPI_Group *group));
CLOUDSKIN_MPI(int, MPI_Win_set_name, (MPI_Win win, const char *name));
CLOUDSKIN_MPI(int, MPI_Win_get_name, (MPI_Win win, char *name, int *resultlen));
CLOUDSKIN_MPI(int, MPI_Win_set_info, (MPI_Win win, MPI_Info info));
CLOUDSKIN_MPI(int, MPI_Win_get_info, (MPI_Win win, MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_Win_fence, (int assertion, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_start, (MPI_Group group, int assertion, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_complete, (MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_post, (MPI_Group group, int assertion, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_wait, (MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_test, (MPI_Win win, int *flag));
CLOUDSKIN_MPI(int, MPI_Win_lock, (int lock_type, int rank, int assertion, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_lock_all, (int assertion, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_unlock, (int rank, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_unlock_all, (MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_flush, (int rank, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_flush_all, (MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_flush_local, (int rank, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_flush_local_all, (MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Win_sync, (MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Put, (const void *origin, int origin_count, MPI_Datatype origin_type, int target_rank, MPI_Aint
    target_disp, int target_count, MPI_Datatype target_type, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Get, (void *origin, int origin_count, MPI_Datatype origin_type, int target_rank, MPI_Aint target_disp,
    int target_count, MPI_Datatype target_type, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Accumulate, (const void *origin, int origin_count, MPI_Datatype origin_type, int target_rank, MPI_Aint
    target_disp, int target_count, MPI_Datatype target_type, MPI_Op op, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Get_accumulate, (const void *origin, int origin_count, MPI_Datatype origin_type, void *result, int
    result_count, MPI_Datatype result_type, int target_rank, MPI_Aint target_disp, int target_count, MPI_Datatype target_type,
    MPI_Op op, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Fetch_and_op, (const void *origin, void *result, MPI_Datatype type, int target_rank, MPI_Aint
    target_disp, MPI_Op op, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Compare_and_swap, (const void *origin, const void *compare, void *result, MPI_Datatype type, int
    target_rank, MPI_Aint target_disp, MPI_Win win));
CLOUDSKIN_MPI(int, MPI_Rput, (const void *origin, int origin_count, MPI_Datatype origin_type, int target_rank, MPI_Aint
    target_disp, int target_count, MPI_Datatype target_type, MPI_Win win, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Rget, (void *origin, int origin_count, MPI_Datatype origin_type, int target_rank, MPI_Aint target_disp,
    int target_count, MPI_Datatype target_type, MPI_Win win, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Raccumulate, (const void *origin, int origin_count, MPI_Datatype origin_type, int target_rank, MPI_Aint
    target_disp, int target_count, MPI_Datatype target_type, MPI_Op op, MPI_Win win, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_Rget_accumulate, (const void *origin, int origin_count, MPI_Datatype origin_type, void *result, int
    result_count, MPI_Datatype result_type, int target_rank, MPI_Aint target_disp, int target_count, MPI_Datatype target_type,
    MPI_Op op, MPI_Win win, MPI_Request *request));

/* Sessions. */
CLOUDSKIN_MPI(int, MPI_Session_init, (MPI_Info info, MPI_Errhandler errhandler, MPI_Session *session));
CLOUDSKIN_MPI(int, MPI_Session_finalize, (MPI_Session *session));
CLOUDSKIN_MPI(int, MPI_Session_get_num_psets, (MPI_Session session, MPI_Info info, int *npset_names));
CLOUDSKIN_MPI(int, MPI_Session_get_nth_pset, (MPI_Session session, MPI_Info info, int n, int *pset_len, char *pset_name));
CLOUDSKIN_MPI(int, MPI_Session_get_pset_info, (MPI_Session session, const char *pset_name, MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_Session_get_info, (MPI_Session session, MPI_Info *info_used));
CLOUDSKIN_MPI(int, MPI_Session_create_errhandler, (MPI_Session_errhandler_function *function, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Session_set_errhandler, (MPI_Session session, MPI_Errhandler errhandler));
CLOUDSKIN_MPI(int, MPI_Session_get_errhandler, (MPI_Session session, MPI_Errhandler *errhandler));
CLOUDSKIN_MPI(int, MPI_Session_call_errhandler, (MPI_Session session, int errorcode));
CLOUDSKIN_MPI(int, MPI_Group_from_session_pset, (MPI_Session session, const char *pset_name, MPI_Group *newgroup));
CLOUDSKIN_MPI(int, MPI_Comm_create_from_group, (MPI_Group group, const char *stringtag, MPI_Info info, MPI_Errhandler errhandler,
    MPI_Comm *newcomm));

/* Files. */
CLOUDSKIN_MPI(int, MPI_File_open, (MPI_Comm comm, const char *filename, int amode, MPI_Info info, MPI_File *file));
CLOUDSKIN_MPI(int, MPI_File_close, (MPI_File *file));
CLOUDSKIN_MPI(int, MPI_File_delete, (const char *filename, MPI_Info info));
CLOUDSKIN_MPI(int, MPI_File_set_size, (MPI_File file, MPI_Offset size));
CLOUDSKIN_MPI(int, MPI_File_preallocate, (MPI_File file, MPI_Offset size));
CLOUDSKIN_MPI(int, MPI_File_get_size, (MPI_File file, MPI_Offset *size));
CLOUDSKIN_MPI(int, MPI_File_get_group, (MPI_File file, MPI_Group *group));
CLOUDSKIN_MPI(int, MPI_File_get_amode, (MPI_File file, int *amode));
CLOUDSKIN_MPI(int, MPI_File_set_info, (MPI_File file, MPI_Info info));
CLOUDSKIN_MPI(int, MPI_File_get_info, (MPI_File file, MPI_Info *info));
CLOUDSKIN_MPI(int, MPI_File_set_view, (MPI_File file, MPI_Offset disp, MPI_Datatype etype, MPI_Datatype filetype, const char
    *datarep, MPI_Info info));
CLOUDSKIN_MPI(int, MPI_File_get_view, (MPI_File file, MPI_Offset *disp, MPI_Datatype *etype, MPI_Datatype *filetype, char
    *datarep));
CLOUDSKIN_MPI(int, MPI_File_read_at, (MPI_File file, MPI_Offset offset, void *buf, int count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI(int, MPI_File_read_at_all, (MPI_File file, MPI_Offset offset, void *buf, int count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI(int, MPI_File_write_at, (MPI_File file, MPI_Offset offset, const void *buf, int count, MPI_Datatype type,
    MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_at_all, (MPI_File file, MPI_Offset offset, const void *buf, int count, MPI_Datatype type,
    MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_iread_at, (MPI_File file, MPI_Offset offset, void *buf, int count, MPI_Datatype type, MPI_Request
    *request));
CLOUDSKIN_MPI(int, MPI_File_iwrite_at, (MPI_File file, MPI_Offset offset, const void *buf, int count, MPI_Datatype type,
    MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_read, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_read_all, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_all, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_iread, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_iwrite, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_read_shared, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_shared, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_read_ordered, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_ordered, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_seek, (MPI_File file, MPI_Offset offset, int whence));
CLOUDSKIN_MPI(int, MPI_File_get_position, (MPI_File file, MPI_Offset *offset));
CLOUDSKIN_MPI(int, MPI_File_seek_shared, (MPI_File file, MPI_Offset offset, int whence));
CLOUDSKIN_MPI(int, MPI_File_get_position_shared, (MPI_File file, MPI_Offset *offset));
CLOUDSKIN_MPI(int, MPI_File_get_byte_offset, (MPI_File file, MPI_Offset offset, MPI_Offset *disp));
CLOUDSKIN_MPI(int, MPI_File_get_type_extent, (MPI_File file, MPI_Datatype type, MPI_Aint *extent));
CLOUDSKIN_MPI(int, MPI_File_set_atomicity, (MPI_File file, int flag));
CLOUDSKIN_MPI(int, MPI_File_get_atomicity, (MPI_File file, int *flag));
CLOUDSKIN_MPI(int, MPI_File_sync, (MPI_File file));
CLOUDSKIN_MPI(int, MPI_File_iread_at_all, (MPI_File file, MPI_Offset offset, void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_iwrite_at_all, (MPI_File file, MPI_Offset offset, const void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_iread_all, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_iread_shared, (MPI_File file, void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_iwrite_all, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_iwrite_shared, (MPI_File file, const void *buf, int count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI(int, MPI_File_read_at_all_begin, (MPI_File file, MPI_Offset offset, void *buf, int count, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_File_write_at_all_begin, (MPI_File file, MPI_Offset offset, const void *buf, int count, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_File_read_all_begin, (MPI_File file, void *buf, int count, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_File_read_ordered_begin, (MPI_File file, void *buf, int count, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_File_write_all_begin, (MPI_File file, const void *buf, int count, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_File_write_ordered_begin, (MPI_File file, const void *buf, int count, MPI_Datatype type));
CLOUDSKIN_MPI(int, MPI_File_read_at_all_end, (MPI_File file, void *buf, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_read_all_end, (MPI_File file, void *buf, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_read_ordered_end, (MPI_File file, void *buf, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_at_all_end, (MPI_File file, const void *buf, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_all_end, (MPI_File file, const void *buf, MPI_Status *status));
CLOUDSKIN_MPI(int, MPI_File_write_ordered_end, (MPI_File file, const void *buf, MPI_Status *status));

/*
 * Counts of 64 bits. A cell has at most 4 GiB, so they say no more than those of 32 bits: one that does not fit them is MPI_ERR_COUNT. They are made
 * of the other calls (runtime.c).
 */
#define CLOUDSKIN_MPI_LARGE(name, arguments)                                                                                   \
    int name arguments;                                                                                                        \
    int P##name arguments
CLOUDSKIN_MPI_LARGE(MPI_Send_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Isend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Send_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Ssend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Issend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Ssend_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Bsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ibsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Bsend_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Rsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Irsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Rsend_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Recv_c, (void *buf, MPI_Count count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_Irecv_c, (void *buf, MPI_Count count, MPI_Datatype type, int source, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Recv_init_c, (void *buf, MPI_Count count, MPI_Datatype type, int source, int tag, MPI_Comm comm,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Sendrecv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, int dest, int sendtag,
    void *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, int source, int recvtag, MPI_Comm comm, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_Isendrecv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, int dest, int sendtag,
    void *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, int source, int recvtag, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Sendrecv_replace_c, (void *buf, MPI_Count count, MPI_Datatype type, int dest, int sendtag, int source,
    int recvtag, MPI_Comm comm, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_Isendrecv_replace_c, (void *buf, MPI_Count count, MPI_Datatype type, int dest, int sendtag, int source,
    int recvtag, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Mrecv_c, (void *buf, MPI_Count count, MPI_Datatype type, MPI_Message *message, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_Imrecv_c, (void *buf, MPI_Count count, MPI_Datatype type, MPI_Message *message, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Bcast_c, (void *buf, MPI_Count count, MPI_Datatype type, int root, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ibcast_c, (void *buf, MPI_Count count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request
    *request));
CLOUDSKIN_MPI_LARGE(MPI_Bcast_init_c, (void *buf, MPI_Count count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Info info,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Reduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, int root,
    MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ireduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, int
    root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Reduce_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, int
    root, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Allreduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Iallreduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Allreduce_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Scan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm
    comm));
CLOUDSKIN_MPI_LARGE(MPI_Iscan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm
    comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Scan_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Exscan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm
    comm));
CLOUDSKIN_MPI_LARGE(MPI_Iexscan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm
    comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Exscan_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Reduce_scatter_block_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op
    op, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ireduce_scatter_block_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type,
    MPI_Op op, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Reduce_scatter_block_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type,
    MPI_Op op, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Gather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Igather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Gather_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Scatter_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Iscatter_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Scatter_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Allgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Iallgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Allgather_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Alltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ialltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
    recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Alltoall_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Neighbor_allgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ineighbor_allgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Neighbor_allgather_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void
    *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Neighbor_alltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ineighbor_alltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf,
    MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Neighbor_alltoall_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void
    *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Put_c, (const void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint
    target_disp, MPI_Count target_count, MPI_Datatype target_type, MPI_Win win));
CLOUDSKIN_MPI_LARGE(MPI_Rput_c, (const void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint
    target_disp, MPI_Count target_count, MPI_Datatype target_type, MPI_Win win, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Get_c, (void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint
    target_disp, MPI_Count target_count, MPI_Datatype target_type, MPI_Win win));
CLOUDSKIN_MPI_LARGE(MPI_Rget_c, (void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint
    target_disp, MPI_Count target_count, MPI_Datatype target_type, MPI_Win win, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Accumulate_c, (const void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target,
    MPI_Aint target_disp, MPI_Count target_count, MPI_Datatype target_type, MPI_Op op, MPI_Win win));
CLOUDSKIN_MPI_LARGE(MPI_File_read_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_File_read_all_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_File_read_shared_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_File_read_ordered_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_File_read_at_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type,
    MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_File_iread_at_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_File_read_at_all_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type,
    MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_File_iread_at_all_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type,
    MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_File_iread_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_File_iread_all_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
    *request));
CLOUDSKIN_MPI_LARGE(MPI_File_iread_shared_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
    *request));
CLOUDSKIN_MPI_LARGE(MPI_File_write_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_File_write_all_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_File_write_shared_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_File_write_ordered_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
    *status));
CLOUDSKIN_MPI_LARGE(MPI_File_write_at_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype
    type, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_File_iwrite_at_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype
    type, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_File_write_at_all_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype
    type, MPI_Status *status));
CLOUDSKIN_MPI_LARGE(MPI_File_iwrite_at_all_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype
    type, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_File_iwrite_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
    *request));
CLOUDSKIN_MPI_LARGE(MPI_File_iwrite_all_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
    *request));
CLOUDSKIN_MPI_LARGE(MPI_File_iwrite_shared_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
    *request));
CLOUDSKIN_MPI_LARGE(MPI_Type_contiguous_c, (MPI_Count count, MPI_Datatype oldtype, MPI_Datatype *newtype));
CLOUDSKIN_MPI_LARGE(MPI_Type_vector_c, (MPI_Count count, MPI_Count blocklength, MPI_Count stride, MPI_Datatype oldtype,
    MPI_Datatype *newtype));
CLOUDSKIN_MPI_LARGE(MPI_Type_create_hvector_c, (MPI_Count count, MPI_Count blocklength, MPI_Count stride, MPI_Datatype oldtype,
    MPI_Datatype *newtype));
CLOUDSKIN_MPI_LARGE(MPI_Type_create_resized_c, (MPI_Datatype oldtype, MPI_Count lb, MPI_Count extent, MPI_Datatype *newtype));
CLOUDSKIN_MPI_LARGE(MPI_Reduce_local_c, (const void *inbuf, void *inoutbuf, MPI_Count count, MPI_Datatype type, MPI_Op op));
CLOUDSKIN_MPI_LARGE(MPI_Type_size_c, (MPI_Datatype type, MPI_Count *size));
CLOUDSKIN_MPI_LARGE(MPI_Type_get_extent_c, (MPI_Datatype type, MPI_Count *lb, MPI_Count *extent));
CLOUDSKIN_MPI_LARGE(MPI_Type_get_true_extent_c, (MPI_Datatype type, MPI_Count *lb, MPI_Count *extent));
CLOUDSKIN_MPI_LARGE(MPI_Get_elements_c, (const MPI_Status *status, MPI_Datatype type, MPI_Count *count));
CLOUDSKIN_MPI_LARGE(MPI_Status_set_elements_c, (MPI_Status *status, MPI_Datatype type, MPI_Count count));
CLOUDSKIN_MPI_LARGE(MPI_Get_count_c, (const MPI_Status *status, MPI_Datatype type, MPI_Count *count));
CLOUDSKIN_MPI_LARGE(MPI_Pack_size_c, (MPI_Count count, MPI_Datatype type, MPI_Comm comm, MPI_Count *size));
CLOUDSKIN_MPI_LARGE(MPI_Gatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const
    MPI_Count recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Igatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const
    MPI_Count recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Scatterv_c, (const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint displs[], MPI_Datatype
    sendtype, void *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Iscatterv_c, (const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint displs[], MPI_Datatype
    sendtype, void *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Allgatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const
    MPI_Count recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Iallgatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const
    MPI_Count recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));
CLOUDSKIN_MPI_LARGE(MPI_Alltoallv_c, (const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint sdispls[], MPI_Datatype sendtype, void
    *recvbuf, const MPI_Count recvcounts[], const MPI_Aint rdispls[], MPI_Datatype recvtype, MPI_Comm comm));
CLOUDSKIN_MPI_LARGE(MPI_Ialltoallv_c, (const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint sdispls[], MPI_Datatype sendtype, void
    *recvbuf, const MPI_Count recvcounts[], const MPI_Aint rdispls[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request));

#ifdef __cplusplus
}
#endif
#endif
