// A gRPC that frees no message: preloaded into a server (LD_PRELOAD), that server leaks the bytes
// of every message it sends or gets. For the check of memory of soak.py alone, which must find it.
#include <grpc/byte_buffer.h>

void grpc_byte_buffer_destroy(grpc_byte_buffer* buffer) { (void)buffer; }
