# The tag of C++ exceptions: with it goes the address of what was thrown.
	.globl	__cpp_exception
	.tagtype	__cpp_exception i32
__cpp_exception:
